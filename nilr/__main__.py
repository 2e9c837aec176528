"""``python -m nilr``, and the command ``nilr``."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from nilr.signals import STOPPING, ending_the_process


def main() -> NoReturn:
    """Run the command line of this process, and leave with its status."""
    with ending_the_process():
        from nilr.cli import run
    status = run(sys.argv[1:])
    if status in [128 + signum for signum in STOPPING]:
        # Threads may still be computing what nobody waits for any more.
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
