"""``python -m nilr``."""

from nilr.cli import main

if __name__ == "__main__":
    main()
