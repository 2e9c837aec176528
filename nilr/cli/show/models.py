"""What the commands of `nilr models` show. Except for `import`, it is an answer, and so it goes to stdout."""

from collections.abc import Iterator

import typer

from nilr.cli.console import Cell, Screen, age
from nilr.errors import CheckpointError
from nilr.recipes.models import Exported, FileCheck, ModelRow, Pushed
from nilr.results.commands import ImportMetrics
from nilr.results.result import Result
from nilr.store import ModelRef
from nilr.words import counted, file_size, some

_LIST = (
    "name",
    "status",
    "val",
    "algo",
    "data",
    "px",
    "age",
    "size",
    "task",
    "updates",
    "arch",
    "parent",
    "problem",
)
# The columns that a narrow terminal does not show, the first one first.
_LEAST_NEEDED = ("parent", "arch", "updates", "task", "size", "age", "px", "data", "algo")


def show_list(models: list[ModelRow], screen: Screen) -> None:
    """Write one row per model; a terminal shows the columns that fit into it, and names the others."""
    answer = screen.answer
    rows = [_row(model, depth, answer) for model, depth in _by_parent(models)]
    if not rows:
        return
    if not answer.either("terminal", ""):
        answer.table(_LIST, rows)
        return
    answer.table(_LIST[:-1], [row[:-1] for row in rows], droppable=_LEAST_NEEDED)
    for name, *_, problem in rows:
        if name and problem:
            answer.line(f"{name.strip()}: {problem}")


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


def _row(model: ModelRow, depth: int, screen: Screen) -> tuple[Cell, ...]:
    task = None if model.n_way is None or model.n_shot is None else f"{model.n_way}-way {model.n_shot}-shot"
    updates = None if model.outer_step is None else str(model.outer_step)
    if updates is not None and model.outer_steps is not None:
        updates = f"{updates}/{model.outer_steps}"
    size = None if model.bytes is None else screen.either(file_size(model.bytes), str(model.bytes))
    saved = None if model.saved_at is None else screen.either(age(model.saved_at), model.saved_at)
    image_size = None if model.image_size is None else str(model.image_size)
    described = ("  " * depth + model.name, model.status, screen.share(model.val_accuracy), model.algo, model.data)
    return (*described, image_size, saved, size, task, updates, model.arch, model.parent, model.problem)


def show_path(model: ModelRef, screen: Screen) -> None:
    """Write the path, unchanged, so that a script can use it."""
    typer.echo(str(model.file))


def show_checks(checks: list[FileCheck], screen: Screen) -> None:
    """Write the finding for each file; CheckpointError if a file is invalid."""
    screen.answer.table(("model", "file", "finding"), [(c.model, c.file, c.problem or "ok") for c in checks])
    invalid = [f"{check.model}/{check.file}" for check in checks if check.problem]
    if invalid:
        raise CheckpointError(f"{len(invalid)} of {counted(len(checks), 'file')} failed the check: {some(invalid)}")


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
