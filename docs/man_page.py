"""The manual page `nilr(1)`, from the commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nilr import __version__
from nilr.cli.app import EPILOG, HELP
from nilr.cli.topics import EXAMPLES
from nilr.words import lower_first

# groff replaces these characters of a text by typographic ones, which cannot be copied into a command.
_PLAIN = str.maketrans({"\\": r"\e", "-": r"\-", "`": r"\(ga", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti"})
_CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def man_page(commands: Mapping[str, Any], common: Sequence[Any], is_common: Callable[[Any], bool]) -> str:
    """Return the source of the page, in the macros of man(7).

    Args:
        commands: Typer's commands by name.
        common: the options that many commands have, which are listed once.
        is_common: a function that returns whether an option of a command is one of them.
    """
    released = re.search(rf"^## \[{re.escape(__version__)}\] - (\S+)$", _CHANGELOG.read_text(encoding="utf-8"), re.M)
    lines = [
        f'.TH NILR 1 {released[1] if released else ""} "nilr {__version__}" "User Commands"',
        ".nh",
        ".ad l",
        ".SH NAME",
    ]
    lines += [rf"nilr \- {_text(lower_first(HELP).rstrip('.'))}", ".SH SYNOPSIS"]
    lines += [r"\fBnilr [OPTIONS] COMMAND [ARGUMENTS]\fR", ".SH DESCRIPTION", _text(EPILOG), ".SH COMMANDS"]
    for name, command in commands.items():
        lines += _command(name, command, [one for one in command.params if not is_common(one)])
    lines.append(".SH COMMON OPTIONS")
    for option in common:
        lines += _option(option)
    statuses = {
        "0": "success",
        "1": "an error that depends on files, data or the machine",
        "2": "an invalid command line",
    }
    lines.append(".SH EXIT STATUS")
    for status, meaning in (statuses | {"128 + N": "ended by signal N"}).items():
        lines += [".TP", f".B {status}", meaning]
    return "\n".join([*lines, ""])


def _command(name: str, command: Any, own: Sequence[Any]) -> Iterator[str]:  # noqa: ANN401 - Typer does not export these
    usage = f"nilr {name} [OPTIONS]"
    for one in own:
        if one.param_type_name == "argument":
            usage += f" [{one.metavar}]" + ("..." if one.nargs != 1 else "")
    yield from (f".SS nilr {_text(name)}", _text(command.help), ".P", rf"\fB{_text(usage)}\fR")
    for parameter in own:
        yield from _option(parameter)
    if examples := EXAMPLES.get(name):
        yield from (".P", "Examples:", ".P", ".nf", ".RS", *map(_text, examples), ".RE", ".fi")


def _option(parameter: Any) -> Iterator[str]:  # noqa: ANN401
    spelled = (*parameter.opts, *parameter.secondary_opts)
    if parameter.param_type_name == "argument":
        spelled = (parameter.metavar,)
    value = "|".join(parameter.type_descriptor.choices or ()) or parameter.metavar
    shown = "" if parameter.param_type_name == "argument" or not value else rf" \fI{_text(value)}\fR"
    yield ".TP"
    yield rf"\fB{_text(', '.join(spelled))}\fR{shown}"
    yield _text(parameter.help)


def _text(text: str) -> str:
    """Return a text in which no character is an instruction of roff."""
    escaped = text.translate(_PLAIN)
    return rf"\&{escaped}" if escaped.startswith((".", r"\(aq")) else escaped
