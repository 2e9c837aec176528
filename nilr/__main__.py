"""`python -m nilr`, and the command `nilr`."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from nilr.signals import STOPPING, ending_the_process, ignore_signals


def main() -> NoReturn:
    """Run the command line of this process, and exit with its status."""
    _open_streams()
    with ending_the_process():
        from nilr.cli.boundary import run
    status = run(sys.argv[1:])
    ignore_signals()
    if status in [128 + signum for signum in STOPPING]:
        # Do not wait for threads that still compute.
        os._exit(status)
    sys.exit(status)


def _open_streams() -> None:
    """Replace stdout and stderr by the null device if the process was started without them."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


if __name__ == "__main__":
    main()
