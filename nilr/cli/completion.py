"""What a shell completes as the value of a setting. Nothing here imports torch."""

import contextlib
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo

from nilr.commands import COMMANDS
from nilr.config.base import MeasuringSettings, extra
from nilr.errors import NilrError

Names = Callable[[Any], Iterable[str]]  # takes the store


def _models(store: Any) -> list[str]:  # noqa: ANN401 - a store, which is imported when it is needed
    return list(store.model_names())


def _packs(store: Any) -> list[str]:  # noqa: ANN401
    return [pack.stem for pack in store.packs()]


def _results(store: Any) -> list[str]:  # noqa: ANN401
    return [result.stem for result in reversed(store.results())]


# What a setting names in the store, by its field.
_STORED: dict[str, Names] = {
    "data": _packs,
    "data_b": _packs,
    "pack": _packs,
    "packs": _packs,
    "a": _packs,
    "b": _packs,
    "verify": _packs,
    "model": _models,
    "models": _models,
    "uses": _models,
    "inner_lr_from": _models,
    "rate_norm_from": _models,
    "resume": _models,
    "results": _results,
}

# The names that stand for {algorithms} and so on, by import path: most commands need none of them.
_TABLES = {
    "{algorithms}": "nilr.meta.algorithms:ALGORITHMS",
    "{presets}": "nilr.config.meta_train:PRESETS",
    "{formats}": "nilr.portable.layouts:FORMATS",
}


def table(placeholder: str) -> list[str]:
    """Return the names that a placeholder in a help text stands for."""
    if placeholder == "{kinds}":
        return list(dict.fromkeys(c.schema for c in COMMANDS if issubclass(c.settings, MeasuringSettings)))
    return list(pkgutil.resolve_name(_TABLES[placeholder]))


def offered(field: FieldInfo) -> list[str]:
    """Return the values, or starts of values, that a field's settings class lists for completion."""
    words = extra(field)["offers"]
    return [name for word in words for name in (table(word) if word.startswith("{") else [word])]


def completer(name: str, field: FieldInfo) -> Callable[..., list[str]] | None:
    """Return what completes the value of a setting; None if nothing does."""
    stored = _STORED.get(name)
    if stored is None and not extra(field)["offers"]:
        return None

    def complete_value(ctx: typer.Context, incomplete: str) -> list[str]:
        listed, comma, last = incomplete.rpartition(",")
        home = ctx.params.get("home") or ctx.find_root().params.get("home")
        found = offered(field)
        with contextlib.suppress(NilrError, OSError):
            if stored is not None:
                from nilr.store import Store

                found += stored(Store(Path(home) if home else None))
        return [f"{listed}{comma}{name}" for name in found if name.startswith(last)]

    return complete_value
