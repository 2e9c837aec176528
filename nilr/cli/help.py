"""Help on a terminal: a heading for each topic, the options with short names of their values, and three examples."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer

from nilr.cli.topics import COMMON, EXAMPLES, OPTIONS, TOPICS

_WIDEST, _TERM = 100, 24  # columns of the whole, and of the options

Row = tuple[str, str]


def width() -> int:
    """Return the columns to fill: the terminal's or COLUMNS, up to where lines become hard to read."""
    return min(_WIDEST, shutil.get_terminal_size().columns)


def help_text(command: Any, ctx: Any) -> str:  # noqa: ANN401 - Typer does not export these classes
    """Return the help of a command or a group."""
    columns = width()
    lines = [*_filled(f"Usage: {usage(command, ctx)}", columns, indent=7), "", *_filled(command.help, columns)]
    for title, rows in sections(command, ctx):
        lines += ["", typer.style(title, bold=True), *_rows(rows, columns)]
    if common := common_options(command, ctx):
        more = "" if ctx.parent is None else "; `nilr --help` explains them"
        lines += ["", *_filled(f"{COMMON}: {', '.join(common)}{more}", columns, indent=2)]
    if examples := EXAMPLES.get(name_of(ctx)):
        lines += ["", typer.style("Examples", bold=True), *(f"  {example}" for example in examples)]
    if command.epilog:
        lines += ["", *_filled(command.epilog, columns)]
    return "\n".join(lines) + "\n"


def name_of(ctx: Any) -> str:  # noqa: ANN401
    """Return the words of a command without the program's name."""
    return str(ctx.command_path).partition(" ")[2]


def usage(command: Any, ctx: Any) -> str:  # noqa: ANN401
    """Return how a command is called."""
    if hasattr(command, "commands"):
        return f"{ctx.command_path} [OPTIONS] COMMAND [ARGUMENTS]"
    arguments = [term(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
    return " ".join([ctx.command_path, "[OPTIONS]", *arguments])


def sections(command: Any, ctx: Any) -> Iterator[tuple[str, list[Row]]]:  # noqa: ANN401
    """Yield each topic with its options; of a group first its commands."""
    if hasattr(command, "commands"):
        yield "Commands", [(name, child.help) for name, child in command.commands.items() if not child.hidden]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    if arguments:
        yield "Arguments", [(term(parameter), parameter.help) for parameter in arguments]
    options = [p for p in command.get_params(ctx) if p.param_type_name == "option" and not p.hidden]
    for topic, order in TOPICS.items():
        listed = [p for p in options if topic_of(p) == topic and (topic != COMMON or ctx.parent is None)]
        listed.sort(key=lambda p: order.index(p.name) if p.name in order else len(order))
        if listed:
            yield topic, [(term(parameter), parameter.help) for parameter in listed]


def common_options(command: Any, ctx: Any) -> list[str]:  # noqa: ANN401
    """Return the options that all commands have, for one line; the root explains them instead."""
    if ctx.parent is None:
        return []
    options = [p for p in command.get_params(ctx) if p.param_type_name == "option" and topic_of(p) == COMMON]
    return [" ".join([min(p.opts, key=len), *([p.metavar] if p.metavar else [])]) for p in options]


def topic_of(option: Any) -> str:  # noqa: ANN401
    """Return the topic of an option."""
    return option.rich_help_panel or OPTIONS


def term(parameter: Any) -> str:  # noqa: ANN401
    """Return an option or an argument as it is typed, with what its value is called."""
    if parameter.param_type_name == "argument":
        return f"[{parameter.metavar}]" + ("..." if parameter.nargs != 1 else "")
    spelled = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        spelled = spelled.replace("--", "--[no-]", 1)
    return f"{spelled} {parameter.metavar}" if parameter.metavar else spelled


def _filled(text: str, columns: int, *, indent: int = 0) -> list[str]:
    space = " " * indent
    return textwrap.wrap(text, columns, subsequent_indent=space, break_long_words=False, break_on_hyphens=False)


def _rows(rows: Sequence[Row], columns: int) -> Iterable[str]:
    """Yield options beside their texts; an option that is too long gets a line of its own."""
    left = min(max(len(name) for name, _ in rows), _TERM) + 4
    for name, text in rows:
        first, *rest = textwrap.wrap(text or "", max(20, columns - left), break_on_hyphens=False) or [""]
        if len(name) > left - 3:
            yield f"  {name}"
            name = ""
        yield f"  {name:{left - 2}}{first}".rstrip()
        yield from (f"{'':{left}}{line}" for line in rest)
