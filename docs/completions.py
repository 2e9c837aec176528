"""The table of what a shell completes: the names, options and known values of all commands."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from nilr.cli.options import choices, table
from nilr.commands import COMMANDS
from nilr.config.base import extra

# What a setting names in the store.
_STORED = {
    **dict.fromkeys(["data", "data_b", "pack", "packs", "a", "b", "verify"], "packs"),
    **dict.fromkeys(["model", "models", "uses", "inner_lr_from", "rate_norm_from", "resume"], "models"),
    "results": "results",
}
_FIELDS = {command.name: command.settings.model_fields for command in COMMANDS}


def completions(root: Any) -> dict[str, Any]:  # noqa: ANN401 - Typer does not export these classes
    """Return the table of a whole command line, as `nilr.cli.completion` reads it."""
    entry = _entry(root.make_context("", [], resilient_parsing=True))
    entry["commands"]["help"]["commands"] = _names(entry)
    return entry


def _names(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the commands of a command or group, without their options."""
    return {
        name: {"help": one["help"], "commands": _names(one)}
        for name, one in entry.get("commands", {}).items()
        if name != "help"
    }


def _entry(context: Any) -> dict[str, Any]:  # noqa: ANN401
    command, fields = context.command, _FIELDS.get(context.command_path.strip(), {})
    parameters: dict[str, list[Any]] = {"options": [], "arguments": []}
    for one in command.get_params(context):
        parameters[f"{one.param_type_name}s"].append(_parameter(one, fields.get(one.name)))
    commands = {
        word: _entry(one.make_context(word, [], parent=context, resilient_parsing=True))
        for word, one in getattr(command, "commands", {}).items()
    }
    return _filled({"help": _first_sentence(command.help), **parameters, "commands": commands})


def _parameter(parameter: Any, field: FieldInfo | None) -> dict[str, Any]:  # noqa: ANN401
    argument = parameter.param_type_name == "argument"
    entry = {
        "flags": [] if argument else sorted([*parameter.opts, *parameter.secondary_opts], key=_long_first),
        "help": _first_sentence(parameter.help),
        "switch": not argument and parameter.is_flag,
        "multiple": parameter.nargs != 1 or getattr(parameter, "multiple", False),
        "values": [] if field is None else [*choices(field), *offered(field)],
        "stored": None if field is None else _STORED.get(parameter.name),
    }
    return _filled(entry)


def _filled(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without what is empty or does not hold."""
    return {name: value for name, value in entry.items() if value}


def _long_first(flag: str) -> tuple[bool, str]:
    return not flag.startswith("--"), flag


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].removesuffix(".")


def offered(field: FieldInfo) -> list[str]:
    """Return the values, or starts of values, that a field's settings class lists for completion."""
    words = extra(field)["offers"]
    return [name for word in words for name in (table(word) if word.startswith("{") else [word])]
