"""Settings models -> Typer's parameters -> settings: a flag is declared once, in `nilr.config`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import annotated_types
import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from nilr.cli.usage import usage_error
from nilr.config import ChunkSettings, DeviceSettings, JudgeSettings, MeasuringSettings, Settings, TaskSettings

S = TypeVar("S", bound=Settings)

ARGUMENTS = {"sources": "SOURCE", "results": "RESULT", "models": "MODEL", "model": "MODEL"}
SWITCH = ""

_EVERYWHERE = "Everywhere"
_PANELS: dict[type[Settings], str] = {
    Settings: _EVERYWHERE,
    MeasuringSettings: _EVERYWHERE,
    DeviceSettings: "Computing",
    ChunkSettings: "Computing",
    TaskSettings: "Judging",
    JudgeSettings: "Judging",
}


@dataclasses.dataclass
class Invocation:
    """What may stand before the command as well as after it; `json` only after it."""

    home: Path | None = None
    quiet: bool = False
    debug: bool = False
    json: str | None = None


def flag(name: str) -> str:
    """Return the flag of a field."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """Return the environment variable of a field."""
    return f"NILR_{name.upper()}"


def command(settings: type[S], body: Callable[[S, Invocation], None], *, json: bool = False) -> Callable[..., None]:
    """Return the function that Typer makes a command of: its parameters are the fields of `settings`.

    Only what was given reaches the settings, so that `explicit()` tells the user's choices from defaults.

    Args:
        settings: the command's settings model.
        body: called with the validated settings.
        json: whether the command takes --json.
    """

    def run(ctx: typer.Context, **values: Any) -> None:  # noqa: ANN401 - one value per field
        invocation: Invocation = ctx.obj
        invocation.quiet |= bool(values.pop("quiet"))
        invocation.debug |= bool(values.pop("debug"))
        invocation.json = values.pop("json", None)
        if values.get("home") is None:
            values["home"] = invocation.home
        body(make_settings(settings, values, hint=f"see `{ctx.command_path} --help`"), invocation)

    parameters = [*_field_parameters(settings), *common_parameters(json=json)]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    run.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (context, *parameters)}
    return run


def make_settings(settings: type[S], values: dict[str, Any], *, hint: str) -> S:
    """Return the settings of the values that are not None.

    Raises:
        UsageError: a value is outside its range.
    """
    try:
        return settings(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        details = error.errors()[0]
        raise usage_error(flag(str(details["loc"][0])), details, hint) from error


def common_parameters(*, json: bool) -> Iterator[inspect.Parameter]:
    """Yield the parameters that are no settings: --json, --quiet, --debug."""
    if json:
        yield _parameter(
            "json", str | None, typer.Option("--json", metavar="PATH", help=_JSON_HELP, rich_help_panel=_EVERYWHERE)
        )
    for name, short, text in (("quiet", ["-q"], "Say nothing but errors."), ("debug", [], "Show tracebacks.")):
        option = typer.Option(
            flag(name),
            *short,
            metavar=SWITCH,
            envvar=variable(name),
            show_envvar=False,
            help=text,
            show_default=False,
            rich_help_panel=_EVERYWHERE,
        )
        yield _parameter(name, bool | None, option)


_JSON_HELP = "Also write the result to this file, in place of what is there; - for standard output."


def _field_parameters(settings: type[Settings]) -> Iterator[inspect.Parameter]:
    """Yield the command's own fields first, and then those that it shares with ever more others."""

    def sharing(name: str) -> int:
        return settings.__mro__.index(_declared_in(settings, name))

    for name in sorted(settings.model_fields, key=sharing):
        field = settings.model_fields[name]
        if name in ARGUMENTS:
            yield _argument(name, field)
        else:
            yield _option(name, field, _PANELS.get(_declared_in(settings, name)))


def _argument(name: str, field: FieldInfo) -> inspect.Parameter:
    info = typer.Argument(metavar=ARGUMENTS[name], help=describe(field), show_default=False)
    return _parameter(name, _typer_type(field), info)


def _option(name: str, field: FieldInfo, panel: str | None) -> inspect.Parameter:
    extra = _extra(field)
    switch = bool in (field.annotation, *get_args(field.annotation))
    spelled = f"{flag(name)}/--no-{flag(name)[2:]}" if switch and field.default is not False else flag(name)
    info = typer.Option(
        spelled,
        *([extra["short"]] if extra["short"] else []),
        help=describe(field),
        metavar=SWITCH if switch else None,
        envvar=variable(name) if extra["env"] else None,
        show_envvar=False,
        show_default=False,
        min=_bound(field, annotated_types.Ge, "ge"),
        max=_bound(field, annotated_types.Le, "le"),
        rich_help_panel=panel,
    )
    return _parameter(name, _typer_type(field), info)


def describe(field: FieldInfo) -> str:
    """Return the help text of a field with its default."""
    default = default_of(field)
    return f"{field.description} Default: {default}." if default else f"{field.description}"


def default_of(field: FieldInfo) -> str | None:
    """Return the words for a field's default; None for a switch that is off, and for nothing at all."""
    shown: str | None = _extra(field)["shown"]
    if shown is not None:
        return shown
    nothing = any(field.default is value for value in (None, False, ()))
    return None if nothing else str(field.default)


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _typer_type(field: FieldInfo) -> Any:  # noqa: ANN401 - a type expression
    if get_origin(field.annotation) is tuple:
        return list[get_args(field.annotation)[0]] | None  # type: ignore[misc]
    return field.annotation | None  # type: ignore[operator]


def _bound(field: FieldInfo, kind: type, attribute: str) -> float | None:
    found = (getattr(bound, attribute) for bound in field.metadata if isinstance(bound, kind))
    return next(found, None)


def _declared_in(settings: type[Settings], name: str) -> type[Settings]:
    """Return the oldest ancestor that has the field, whether or not a later one declares it anew."""
    return next(base for base in reversed(settings.__mro__) if name in getattr(base, "model_fields", {}))


def _parameter(name: str, annotation: Any, info: Any) -> inspect.Parameter:  # noqa: ANN401 - types and Typer's infos
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, info])
