"""Streams that results are shown on."""

from __future__ import annotations

import io
import pkgutil
from typing import Any

from nilr.cli.console import Screen, make_console
from nilr.commands import COMMANDS
from nilr.results.result import Result


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def shown(result: Result[Any], stream: io.StringIO | None = None, *, quiet: bool = False) -> list[str]:
    stream = stream or io.StringIO()
    show = next(command.show for command in COMMANDS if command.schema == result.command)
    pkgutil.resolve_name(show)(result, Screen(make_console(stream), quiet=quiet))
    return [line.rstrip() for line in stream.getvalue().splitlines()]
