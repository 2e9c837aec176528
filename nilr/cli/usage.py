"""What Typer and pydantic say about a wrong command line, as nilr's own error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from pydantic import ValidationError

from nilr.errors import UsageError


def usage_error(where: str, details: Mapping[str, Any], hint: str) -> UsageError:
    """Return the error for a value that pydantic refuses.

    Args:
        where: the flag or the environment variable.
        details: one of `ValidationError.errors()`.
        hint: where to read more.
    """
    reason = details["msg"].removeprefix("Value error, ")
    return UsageError(f"`{where}` cannot be `{details['input']}`: {_lower(reason)}", hint=hint)


def from_typer(error: typer.TyperException) -> UsageError:
    """Return the error for a command line that Typer refuses.

    Typer does not export the subclasses of its exception, so what they carry is asked for by name.
    """
    ctx = getattr(error, "ctx", None)
    hint = f"see `{ctx.command_path} --help`" if ctx else "see `nilr --help`"
    parameter, cause = getattr(error, "param", None), error.__cause__
    if parameter is not None and isinstance(cause, ValidationError):
        return usage_error(_where(ctx, parameter), cause.errors()[0], hint)
    commands = getattr(getattr(ctx, "command", None), "commands", None)
    if commands and not hasattr(error, "option_name"):
        hint = f"known: {', '.join(commands)}"
    possible = getattr(error, "possibilities", None)
    if possible:
        hint = f"perhaps {', '.join(sorted(possible))}; {hint}"
    message = " ".join(getattr(error, "message", str(error)).replace("'", "`").split())
    return UsageError(_lower(message), hint=hint)


def _where(ctx: Any, parameter: Any) -> str:  # noqa: ANN401 - Typer's own classes, which it does not export
    source = ctx.get_parameter_source(parameter.name) if ctx else None
    if source is not None and source.name == "ENVIRONMENT":
        return str(parameter.envvar)
    return str(parameter.opts[0]) if parameter.param_type_name == "option" else str(parameter.metavar)


def _lower(sentence: str) -> str:
    sentence = sentence.strip().rstrip(".")
    return sentence[:1].lower() + sentence[1:]
