"""Parsing of a command line before any settings are known. Imports no pydantic."""

import dataclasses
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from nilr.errors import UsageError

SWITCH = ""
QUIET_HELP = "Print errors only; results are stored all the same."
DEBUG_HELP = "Show tracebacks."
_WITHOUT_VALUE = {"--json": "-"}  # the values of options that need none


@dataclasses.dataclass
class Invocation:
    """Options that every command has. Those without the name of a file may also precede the command."""

    home: str | None = None
    quiet: bool = False
    debug: bool = False
    json: str | None = None
    save_config: str | None = None
    log_file: str | None = None
    log_checked: bool = False  # whether `open_log` has checked the log
    dry_run: bool = False
    words: Sequence[str] = ()  # of the command line


def complete_values(parameters: Sequence[Any], words: Sequence[str], hint: str, *, interspersed: bool) -> list[str]:
    """Return a command line in which every option that needs a value has one that is not another option.

    Args:
        parameters: Typer's parameters of a command.
        words: what follows the command.
        hint: for the error.
        interspersed: whether options may follow arguments.

    Raises:
        UsageError: a value is missing, or may be an argument instead.
    """
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    by_name = {name: option for option in options for name in (*option.opts, *option.secondary_opts)}
    arguments_left = len(options) < len(parameters)
    completed, rest = [], list(words)
    while rest:
        if rest[0] == "--" or not (rest[0].startswith("-") or interspersed):
            break
        word = rest.pop(0)
        completed.append(word)
        if word not in by_name or by_name[word].is_flag:
            arguments_left &= word.startswith("-")
            continue
        missing = not rest or rest[0].startswith("--") or rest[0].partition("=")[0] in by_name
        if not missing:
            if word in _WITHOUT_VALUE and arguments_left and len(rest) == 1 and re.fullmatch(r"[^/.-][^/.]*", rest[0]):
                either = f"for the file, write `{word}=./{rest[0]}`; for the argument, put `{word}` last"
                raise UsageError(f"`{word} {rest[0]}` names a file or an argument", hint=either)
            completed.append(rest.pop(0))
        elif word in _WITHOUT_VALUE:
            completed.append(_WITHOUT_VALUE[word])
        else:
            found = f", and `{rest[0]}` is an option" if rest else ""
            raise UsageError(f"option `{word}` needs a value{found}", hint=hint)
    return completed + rest


def given_value(words: Sequence[str], flag: str) -> str | None:
    """Return the value of an option on a command line that may be invalid."""
    found = None
    for word, following in pairwise([*words, ""]):
        if word == "--":
            break
        if word == flag and not following.startswith("-"):
            found = following
        elif word.startswith(f"{flag}="):
            found = word.removeprefix(f"{flag}=")
    return found or None


def source_of(parameter: Any, ctx: Any) -> str:  # noqa: ANN401 - Typer does not export these classes
    """Return the environment variable, the flag or the argument that a parameter's value came from."""
    source = ctx.get_parameter_source(parameter.name) if ctx else None
    if source is not None and source.name == "ENVIRONMENT":
        return str(parameter.envvar)
    return str(parameter.opts[0]) if parameter.param_type_name == "option" else str(parameter.metavar)
