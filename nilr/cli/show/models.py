"""What the commands of `nilr models` show. Except for `import`, it is an answer, and so it goes to stdout."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from pydantic import ValidationError

from nilr.cli.console import Cell, Screen
from nilr.errors import CheckpointError
from nilr.recipes.models import Exported, FileCheck, ModelRow, Pushed
from nilr.results.commands import ImportMetrics, ModelCard
from nilr.results.records import Mean
from nilr.results.result import Result
from nilr.store import ModelRef
from nilr.words import counted, number

_LIST = ("name", "status", "algo", "arch", "task", "updates", "val accuracy", "saved at", "parent", "problem")


def show_list(models: list[ModelRow], screen: Screen) -> None:
    """Write one row per model."""
    if models:
        screen.answer.table(_LIST, [_row(model, depth, screen.answer) for model, depth in _by_parent(models)])


def _by_parent(models: list[ModelRow]) -> Iterator[tuple[ModelRow, int]]:
    """Yield each model, followed by the models that were adapted from it, with the number of models above it."""
    left = {model.name: model for model in models}
    for first in sorted(models, key=lambda model: model.parent in left and model.parent != model.name):
        stack = [(first, 0)]
        while stack:
            model, depth = stack.pop()
            if left.pop(model.name, None) is not None:
                yield model, depth
                stack += [(child, depth + 1) for child in reversed(models) if child.parent == model.name]


def _row(model: ModelRow, depth: int, screen: Screen) -> tuple[str | None, ...]:
    task = None if model.n_way is None or model.n_shot is None else f"{model.n_way}-way {model.n_shot}-shot"
    updates = None if model.outer_step is None else str(model.outer_step)
    if updates is not None and model.outer_steps is not None:
        updates = f"{updates}/{model.outer_steps}"
    accuracy, saved_at = screen.share(model.val_accuracy), model.saved_at and model.saved_at[:16].replace("T", " ")
    described = ("  " * depth + model.name, model.status, model.algo, model.arch, task, updates)
    return (*described, accuracy, saved_at, model.parent, model.problem)


def show_card(result: Result[ModelCard], screen: Screen) -> None:
    """Write the facts about a checkpoint, and its inner rates by layer and by tensor."""
    card, answer = result.metrics, screen.answer
    facts = card.manifest.model_dump(mode="json") | {"parameters": card.n_params}
    facts["architecture"] = {"name": card.manifest.architecture.name, **card.manifest.architecture.arguments}
    grouped = sorted(facts.items(), key=lambda fact: fact[0] in ("architecture", "algorithm", "settings", "metrics"))
    answer.table(
        (f"{card.name}@{card.checkpoint}", ""),
        [row for name, value in grouped for row in _facts(name, value, answer)],
    )
    for group, rates in (("layer", card.rates_by_layer), ("tensor", card.rates_by_tensor)):
        answer.line("")
        answer.table(
            (f"inner rates by {group}", "count", "min", "mean", "max", "negative"),
            [
                (r.name, str(r.count), number(r.min), number(r.mean), number(r.max), answer.share(r.share_negative))
                for r in rates
            ],
        )


def _facts(name: str, value: Any, screen: Screen) -> Iterator[tuple[str, Cell]]:  # noqa: ANN401 - JSON of any shape
    """Yield a value of a manifest with its name; the values of an object one by one."""
    fraction = any(part in name for part in ("accuracy", "share"))
    if isinstance(value, dict):
        with contextlib.suppress(ValidationError):
            mean = Mean.model_validate(value)
            yield name, f"{screen.mean(mean)} ({counted(mean.n_episodes, 'episode')})"
            return
        for part, inner in value.items():
            yield from _facts(f"{name}.{part}", inner, screen)
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    elif isinstance(value, bool):
        yield name, "yes" if value else "no"
    elif isinstance(value, float) and name.startswith("metrics."):
        yield name, screen.share(value) if fraction else number(value)
    elif value is not None:
        yield name, str(value)


def show_path(model: ModelRef, screen: Screen) -> None:
    """Write the path, unchanged, so that a script can use it."""
    typer.echo(str(model.file))


def show_checks(checks: list[FileCheck], screen: Screen) -> None:
    """Write the finding for each file; CheckpointError if a file is invalid."""
    screen.answer.table(("model", "file", "finding"), [(c.model, c.file, c.problem or "ok") for c in checks])
    invalid = [f"{check.model}/{check.file}" for check in checks if check.problem]
    if invalid:
        raise CheckpointError(
            f"{len(invalid)} of {counted(len(checks), 'file')} failed the check: {', '.join(invalid)}"
        )


def show_removed(names: Sequence[str], screen: Screen) -> None:
    """Write the names of the removed models."""
    screen.line(f"removed: {', '.join(names)}")


def show_imported(result: Result[ImportMetrics], screen: Screen) -> None:
    """Write the models that are in the store now."""
    rows = []
    for name, model in result.metrics.items():
        outcome = "imported" if model.imported else "unchanged"
        files = ", ".join(file.partition(".")[0] for file in model.files)
        rows.append((name, outcome, model.status, str(model.outer_step), files))
    screen.table(("model", "action", "status", "updates", "files"), rows)


def show_pushed(pushed: Pushed, screen: Screen) -> None:
    """Write where the model is now."""
    screen.line(f"uploaded to {pushed.url}: {', '.join(pushed.files)}")
    for note in pushed.notes:
        screen.line(note)


def show_exported(exported: Exported, screen: Screen) -> None:
    """Write the names of the files, and how to load them."""
    screen.line(f"written: {', '.join(map(str, exported.files))}")
    for note in exported.notes:
        screen.line(note)
