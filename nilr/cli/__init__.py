"""The command line: flags -> settings -> recipe -> screen. The only code that uses Typer and rich."""
