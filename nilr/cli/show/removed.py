"""What `nilr data rm` and `nilr models rm` show."""

from collections.abc import Sequence

from nilr.cli.console import Screen


def show(names: Sequence[str], screen: Screen) -> None:
    """Write the names of what was removed."""
    screen.line(f"removed: {', '.join(names)}")
