"""`python -m nilr`, and the command `nilr`."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process, and exit with its status."""
    _require_posix()
    from nilr.signals import STOPPING, ending_the_process, ignore_signals

    _open_streams()
    with ending_the_process():
        from nilr.cli.boundary import run
        from nilr.distributed import started
    status = run(sys.argv[1:])
    ignore_signals()
    if status in [128 + signum for signum in STOPPING] or (status and started() > 1):
        # Do not wait for threads that still compute, or for a process that is lost.
        os._exit(status)
    sys.exit(status)


def _require_posix() -> None:
    """Exit with an error where the locks of files that nilr uses do not exist."""
    if importlib.util.find_spec("fcntl") is None:
        sys.exit("error: nilr runs on Linux and macOS\nhint: on Windows, run it under WSL")


def _open_streams() -> None:
    """Replace stdout and stderr by the null device if the process was started without them."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


if __name__ == "__main__":
    main()
