"""What a shell completes: names of options, and of what their values name. Nothing here imports torch."""

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from nilr.commands import COMMANDS
from nilr.config.base import BODIES, ENGINES, MeasuringSettings
from nilr.config.evaluation import FIGURES, NEIGHBOURS, RATES
from nilr.config.meta_train import LOGGERS, PRESETS
from nilr.errors import NilrError
from nilr.meta.algorithms import ALGORITHMS
from nilr.portable.layouts import formats

COMPLETE = "_NILR_COMPLETE"

Names = Callable[[Any], Iterable[str]]  # takes the store


def _words(text: str) -> list[str]:
    """Return the names in an enumeration in words."""
    return [word for word in text.replace(" or ", ", ").split(", ") if not word.startswith("a ")]


def _models(store: Any) -> list[str]:  # noqa: ANN401 - a store, which is imported when it is needed
    return list(store.model_names())


def _packs(store: Any) -> list[str]:  # noqa: ANN401
    return [pack.stem for pack in store.packs()]


def _results(store: Any) -> list[str]:  # noqa: ANN401
    return [result.stem for result in reversed(store.results())]


def _fixed(names: Iterable[str]) -> Names:
    found = list(names)
    return lambda _store: found


# What a setting names, by its field.
COMPLETED: dict[str, Names] = {
    "algo": _fixed(ALGORITHMS),
    "preset": _fixed(PRESETS),
    "arch": _fixed(_words(BODIES)),
    "engine": _fixed(_words(ENGINES)),
    "device": _fixed(("auto", "cpu", "cuda")),
    "rates": _fixed(_words(RATES)),
    "neighbours": _fixed(_words(NEIGHBOURS)),
    "adapt_part": _fixed(("all", "body", "head", "block1", "block2", "block3", "block4")),
    "layers": _fixed(("all", "block1", "block2", "block3", "block4")),
    "rate_constraint": _fixed(("free", "non-negative", "fixed-signs", "bounded:")),
    "format": _fixed(formats()),
    "log": _fixed(_words(LOGGERS)),
    "fail_below": _fixed(f"{figure}=" for figure in FIGURES),
    "kind": _fixed(dict.fromkeys(c.schema for c in COMMANDS if issubclass(c.settings, MeasuringSettings))),
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
    "resume": lambda store: ["auto", "never", *_models(store)],
    "results": _results,
}


def completer(name: str) -> Callable[..., list[str]] | None:
    """Return what completes the value of a setting; None if nothing does, or if it has a list of choices."""
    names = COMPLETED.get(name)
    if names is None:
        return None

    def complete_value(ctx: typer.Context, incomplete: str) -> list[str]:
        from nilr.store import Store

        listed, comma, last = incomplete.rpartition(",")
        home = ctx.params.get("home") or ctx.find_root().params.get("home")
        try:
            found = names(Store(Path(home) if home else None))
        except (NilrError, OSError):
            return []
        return [f"{listed}{comma}{name}" for name in found if name.startswith(last)]

    return complete_value


def complete(command: Any, invocation: Any) -> None:  # noqa: ANN401 - Typer does not export these classes
    """Print what a shell that calls with `_NILR_COMPLETE` can complete, and exit."""
    classes: Any = importlib.import_module("typer._completion_classes")
    classes._sanitize_help_text = str  # the texts have no markup to remove, for which Typer imports rich
    command._main_shell_completion(ctx_args={"obj": invocation}, prog_name="nilr", complete_var=COMPLETE)
