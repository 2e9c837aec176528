"""The command line: flags -> settings -> recipe -> console. The only code that knows Typer and rich."""

from nilr.cli.boundary import run

__all__ = ["run"]
