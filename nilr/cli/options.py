"""Settings models -> parameters of Typer -> settings: a flag is declared once, in `nilr.config`."""

import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from nilr.cli.parsing import DEBUG_HELP, QUIET_HELP, SWITCH, Invocation, source_of
from nilr.cli.topics import COMMON, METAVARS, OPTIONS, RUNNING, TOPIC_OF
from nilr.commands import COMMANDS
from nilr.config.base import MeasuringSettings, Settings, extra
from nilr.errors import EMPTY_PATH, UsageError, invalid_value
from nilr.words import as_flag

ARGUMENTS = {
    "sources": "SOURCE", "results": "RESULT", "models": "MODEL", "model": "MODEL", "repo": "REPO",
    "packs": "PACK", "pack": "PACK", "a": "A", "b": "B",
}  # fmt: skip
_DRY_RUN_HELP = "Check everything that can be checked without work, show what would be done, and write no result."
_FILES = {
    "config": "TOML file with settings, such as n_way = 5; flags and environment variables override it.",
    "save_config": "Write the settings that were given to this TOML file, for --config.",
    "log_file": "Append messages, progress and errors to this file, with their times.",
}
_JSON_HELP = "Also write the result to this file, and replace it if it exists; without a file, to standard output."

_SHORT_CHOICES = 16  # columns of choices that stand beside the option
_TABLES = {
    "{algorithms}": "nilr.meta.algorithms:ALGORITHMS",
    "{presets}": "nilr.config.meta_train:PRESETS",
    "{formats}": "nilr.portable.layouts:FORMATS",
}  # by import path: most commands need none of them
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def typer_function(
    settings: type[Settings], run: Callable[[Settings, Invocation], None], *, json: bool, dry_run: bool
) -> Callable[..., None]:
    """Return a function whose parameters are the fields of `settings`, for Typer to make a command of.

    Only the values that the user gave reach the settings, so that `explicit()` separates them from defaults.
    """

    def function(ctx: typer.Context, **values: Any) -> None:  # noqa: ANN401 - one value per field
        invocation: Invocation = ctx.obj
        invocation.quiet |= bool(values.pop("quiet"))
        invocation.debug |= bool(values.pop("debug"))
        invocation.json = values.pop("json", None)
        invocation.dry_run = bool(values.pop("dry_run", False))
        invocation.save_config = values.pop("save_config")
        invocation.log_file = values.pop("log_file")
        config = values.pop("config")
        if values.get("home") is None:
            values["home"] = invocation.home
        given = {}
        if config is not None:
            from nilr.cli.config_file import read_config

            given = read_config(config, settings, ctx.command_path)
        flags = {name: value for name, value in values.items() if value is not None}
        if (name := settings.empty_path(flags)) is not None:
            raise _invalid(ctx, name, EMPTY_PATH)
        given |= flags
        if given.get("models"):
            given["models"] = _matching_models(given.get("home"), given["models"])
        try:
            validated = settings(**given)
        except ValidationError as error:
            details = error.errors()[0]
            raise _invalid(ctx, str(details["loc"][0]), details) from error
        run(validated, invocation)

    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, *_field_parameters(settings), *_common_parameters(json=json, dry_run=dry_run)]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


def _invalid(ctx: typer.Context, name: str, details: Mapping[str, Any]) -> UsageError:
    """Return the error for the value of a setting."""
    where = next(source_of(parameter, ctx) for parameter in ctx.command.params if parameter.name == name)
    return invalid_value(where, details, f"see `{ctx.command_path} --help`")


def _matching_models(home: str | Path | None, refs: Sequence[str]) -> Sequence[str]:
    """Replace patterns such as `cpu-maml-s*` by the names of the models that match."""
    if not any(character in ref for ref in refs for character in "*?["):
        return refs
    from nilr.store import Store

    return Store(Path(home) if home else None).matching_models(refs)


def _common_parameters(*, json: bool, dry_run: bool) -> Iterator[inspect.Parameter]:
    """Yield the parameters that are not settings."""
    if json:
        info = typer.Option("--json", metavar=METAVARS["json"], help=_JSON_HELP, rich_help_panel=COMMON)
        yield _parameter("json", str | None, info)
    if dry_run:
        info = typer.Option("--dry-run", metavar=SWITCH, help=_DRY_RUN_HELP, rich_help_panel=RUNNING)
        yield _parameter("dry_run", bool | None, info)
    for name, text in _FILES.items():
        info = typer.Option(as_flag(name), metavar=METAVARS[name], help=text, rich_help_panel=COMMON)
        yield _parameter(name, str | None, info)
    for name, short, text in (("quiet", ["-q"], QUIET_HELP), ("debug", [], DEBUG_HELP)):
        info = typer.Option(
            as_flag(name),
            *short,
            metavar=SWITCH,
            envvar=f"NILR_{name.upper()}",
            show_envvar=False,
            help=text,
            show_default=False,
            rich_help_panel=COMMON,
        )
        yield _parameter(name, bool | None, info)


def _field_parameters(settings: type[Settings]) -> Iterator[inspect.Parameter]:
    """Yield the fields of this command alone first, and last those that all commands have."""

    def depth(name: str) -> int:
        return settings.__mro__.index(_declared_in(settings, name))

    for name in sorted(settings.model_fields, key=depth):
        field = settings.model_fields[name]
        info = (
            typer.Argument(metavar=ARGUMENTS[name], help=describe(field), show_default=False)
            if name in ARGUMENTS
            else _option(name, field)
        )
        yield _parameter(name, _typer_type(field), info)


def _option(name: str, field: FieldInfo) -> Any:  # noqa: ANN401 - an object of Typer
    more = extra(field)
    switch = is_switch(field)
    spelled = f"{as_flag(name)}/{as_flag(f'no_{name}')}" if switch and field.default is not False else as_flag(name)
    return typer.Option(
        spelled,
        *([more["short"]] if more["short"] else []),
        help=describe(field),
        metavar=SWITCH if switch else metavar(name, field),
        envvar=envvar(name, field),
        show_envvar=False,
        show_default=False,
        rich_help_panel=TOPIC_OF.get(name, OPTIONS),
    )


def describe(field: FieldInfo) -> str:
    """Return the help text of a field, with choices that it does not mention, its range and its default.

    A switch that is off and an empty value need no default.
    """
    text, default = str(field.description), extra(field)["shown"]
    text = re.sub(r"\{[a-z]+\}", lambda found: ", ".join(table(found[0])), text)
    if len("|".join(choices(field))) > _SHORT_CHOICES and (
        missing := [choice for choice in choices(field) if not re.search(rf"(?<![\w-]){choice}(?![\w-])", text)]
    ):
        text = f"{text} {'One of' if len(missing) == len(choices(field)) else 'Also'} {', '.join(missing)}."
    if limits := value_range(field):
        text = f"{text} {limits[0].upper()}{limits[1:]}."
    if default is None and not any(field.default is value for value in (None, False, ())):
        default = str(field.default)
    return f"{text} Default: {default}." if default else text


def table(placeholder: str) -> list[str]:
    """Return the names that a placeholder such as `{presets}` in a help text stands for."""
    if placeholder == "{kinds}":
        return list(dict.fromkeys(c.schema for c in COMMANDS if issubclass(c.settings, MeasuringSettings)))
    return list(pkgutil.resolve_name(_TABLES[placeholder]))


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the values that a field may have, if they are listed."""
    return next((get_args(kind) for kind in _types(field) if get_origin(kind) is Literal), ())


def metavar(name: str, field: FieldInfo) -> str:
    """Return what help calls the value of an option."""
    by_type = {int: "N", float: "NUMBER", Path: "PATH"}
    listed = "|".join(choices(field))
    short = listed if 0 < len(listed) <= _SHORT_CHOICES else None
    return METAVARS.get(name) or short or next((by_type[kind] for kind in _types(field) if kind in by_type), "NAME")


def envvar(name: str, field: FieldInfo) -> str | None:
    """Return the environment variable of a field, if it has one."""
    return f"NILR_{name.upper()}" if extra(field)["env"] and name not in ARGUMENTS else None


def is_switch(field: FieldInfo) -> bool:
    """Return whether a field is on or off."""
    return bool in _types(field)


def _types(field: FieldInfo) -> list[Any]:
    """Return the type of a field, and those that it is composed of, without their validators."""
    kinds = (field.annotation, *get_args(field.annotation))
    return [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]


def value_range(field: FieldInfo) -> str | None:
    """Return the range of a number in words, such as `1 to 4096`; None if it has none."""
    bounds = {name: _bound(getattr(data, name)) for data in field.metadata for name in _BOUNDS if hasattr(data, name)}
    if bounds.keys() == {"ge", "le"}:
        return f"{bounds['ge']} to {bounds['le']}"
    return ", ".join(f"{_BOUNDS[name]} {bound}" for name, bound in bounds.items()) or None


def _bound(value: float) -> str:
    return f"2**{int(value).bit_length() - 1}" if value > 2**53 else f"{value}"


def _typer_type(field: FieldInfo) -> Any:  # noqa: ANN401 - a type expression
    """Return the type that Typer converts a value to; paths stay as they were typed, so that an empty one is seen."""
    several = get_origin(field.annotation) is tuple and not extra(field)["text"]
    if extra(field)["text"] or Path in _types(field):
        return list[str] | None if several else str | None
    if several:
        return list[get_args(field.annotation)[0]] | None  # type: ignore[misc]
    return field.annotation | None  # type: ignore[operator]


def _declared_in(settings: type[Settings], name: str) -> type[Settings]:
    """Return the first class that declares the field; a subclass may declare it again."""
    return next(base for base in reversed(settings.__mro__) if name in getattr(base, "model_fields", {}))


def _parameter(name: str, annotation: Any, info: Any) -> inspect.Parameter:  # noqa: ANN401 - types and Typer's objects
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, info])
