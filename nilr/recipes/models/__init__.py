"""Models: list, find, verify and remove them. Listing reads only headers and does not import torch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nilr.checkpoint import Manifest, read_manifest
from nilr.config.base import Settings
from nilr.config.models import ListModelsSettings, ModelSettings, ModelsSettings, ModelStatus, RemoveSettings
from nilr.errors import CheckpointError, NilrError, StoreError, UsageError, invalid_field
from nilr.history import completed_updates, planned_updates, read_history, training_status
from nilr.reporting import Reporter
from nilr.results.records import Record
from nilr.store import BEST, CHECKPOINTS, HISTORY, LAST, TRAINING_STATE, ModelRef, Store
from nilr.training_state import load_training_state
from nilr.words import some

# What `--sort` orders by, and whether the highest value comes first; other orders have the name of their field.
_ORDERS = {"accuracy": ("val_accuracy", True), "size": ("bytes", True), "age": ("saved_at", True)}
FILES = (BEST, LAST, TRAINING_STATE, HISTORY)


@dataclass(frozen=True)
class Exported:
    """The files that were written, and remarks for their reader."""

    files: list[Path]
    notes: list[str]


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, and where."""

    url: str
    files: list[str]
    notes: list[str]


class ModelRow(Record):
    """One model in a list; a value that the checkpoint does not contain is None."""

    name: str
    status: ModelStatus
    algo: str | None = None
    arch: str | None = None
    n_way: int | None = None
    n_shot: int | None = None
    outer_step: int | None = None  # completed outer updates, of `outer_steps`
    outer_steps: int | None = None
    val_accuracy: float | None = None  # accuracy of the best validation, a fraction
    data: str | None = None  # the pack that it was trained on, and the side of its images in pixels
    image_size: int | None = None
    bytes: int | None = None  # of all its files
    saved_at: str | None = None
    parent: str | None = None  # the model it was adapted from
    problem: str | None = None  # why it is unreadable, or the error that ended its training


class FileCheck(Record):
    """One file of a model, and its problem, if any."""

    model: str
    file: str
    problem: str | None = None


def list_models(settings: Settings, reporter: Reporter) -> list[ModelRow]:
    """Return all models of the store, in name order; an unreadable model is a row like any other."""
    store = Store(settings.home)
    if not store.model_names():
        reporter.note(f"there is no model in the store yet: {store.how_to_train()}")
    rows = [(store.model_dir(name), _row(store, name)) for name in store.model_names()]
    return [row for directory, row in rows if row.problem is None or directory.exists()]  # it may be removed meanwhile


def select_models(settings: ListModelsSettings, reporter: Reporter) -> list[ModelRow]:
    """Return the models of a list that have the given names, algorithm, pack and status, in the given order.

    The best accuracy and the newest and largest models come first; models without the value come last.

    Raises:
        StoreError: there is no model of such a name.
    """
    store = Store(settings.home)
    for name in settings.models:
        store.require_model(name)
    rows = list_models(settings, reporter)
    wanted = {"algo": settings.algo, "data": settings.data, "status": settings.status}
    found = [
        row
        for row in rows
        if (not settings.models or row.name in settings.models)
        and all(value is None or getattr(row, name) == value for name, value in wanted.items())
    ]
    if rows and not found:
        known = (
            f"{name}: {some(sorted({str(getattr(row, name)) for row in rows}))}" for name in wanted if wanted[name]
        )
        reporter.note(f"no model matches; {'; '.join(known)}")
    field, descending = _ORDERS.get(settings.sort, (settings.sort, False))
    known_first = [row for row in found if getattr(row, field) is not None]
    known_first.sort(key=lambda row: getattr(row, field), reverse=descending)
    return known_first + [row for row in found if getattr(row, field) is None]


def find_model(settings: ModelSettings, reporter: Reporter) -> ModelRef:
    """Return the checkpoint that a MODEL argument names; StoreError if there is no such model."""
    return Store(settings.home).find_model(settings.model)


def verify_models(settings: ModelsSettings, reporter: Reporter) -> list[FileCheck]:
    """Read all files of the models, of all models by default, and return the problem of each file.

    Digests must be correct, and it must be possible to rebuild the learner of a checkpoint.
    """
    store = Store(settings.home)
    if not (refs := settings.models or store.model_names()):
        raise StoreError(f"there is no model in `{store.home}`", hint=store.how_to_train())
    return [check for ref in refs for check in _verify(store, ref)]


def remove_models(settings: RemoveSettings, reporter: Reporter) -> Sequence[str]:
    """Remove models, all or none, and return their names."""
    store, names = Store(settings.home), list(dict.fromkeys(settings.models))
    if not names:
        raise UsageError("no model is named", hint=f"name one or more; `{store.command('models', 'ls')}` lists them")
    for name in names:
        store.require_model(name)
    for name in names:
        store.remove_model(name)
    return names


def _row(store: Store, name: str) -> ModelRow:
    directory = store.model_dir(name)
    try:
        files = [directory / file for file in CHECKPOINTS.values()]
        manifests = [read_manifest(file) for file in files if file.is_file()]
        status, problem = training_status(directory, 0, 1)
        row = ModelRow(name=name, status=status, problem=problem)
        if manifests:
            row = describe(name, manifests[-1], directory)
        progress = _progress(directory) if store.in_use(name) else {}
        n_bytes = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
        return row.model_copy(update={"bytes": n_bytes, **progress})
    except (CheckpointError, OSError) as error:
        return ModelRow(name=name, status="unreadable", problem=str(error))


def _progress(directory: Path) -> dict[str, Any]:
    """Return the status of a model that a process is working on, and the updates in its history."""
    progress: dict[str, Any] = {"status": "running", "problem": None}
    with contextlib.suppress(CheckpointError):
        for line in read_history(directory / HISTORY):
            progress |= line.model_dump(include={"outer_step", "outer_steps"}, exclude_none=True)
    return progress


def describe(name: str, manifest: Manifest, directory: Path) -> ModelRow:
    """Return the row of the model whose newest checkpoint has this manifest, and whose history is in a directory."""
    settings, outer_step = manifest.settings, completed_updates(directory, manifest)
    total: Any = settings.get("outer_steps") if manifest.parent is None else None
    status, problem = training_status(directory, outer_step, planned_updates(manifest))
    best: Any = manifest.metrics.get("best_val_accuracy")
    row = {
        "name": name,
        "status": status,
        "algo": manifest.algorithm.get("name"),
        "arch": manifest.architecture.name,
        "n_way": manifest.architecture.arguments.get("n_way"),
        "n_shot": settings.get("n_shot"),
        "outer_step": outer_step,
        "outer_steps": total,
        "val_accuracy": best.get("mean") if isinstance(best, Mapping) else None,
        "data": manifest.data.name,
        "image_size": manifest.data.image_size,
        "saved_at": manifest.saved_at,
        "parent": manifest.parent.name if manifest.parent else None,
        "problem": problem,
    }
    try:
        return ModelRow.model_validate(row)
    except ValidationError as error:
        raise CheckpointError(f"manifest field {invalid_field(error)}") from error


def _verify(store: Store, ref: str) -> list[FileCheck]:
    if "/" in ref and Path(ref).is_dir():
        directory, name = Path(ref), Path(ref).absolute().name
    elif ref in store.model_names():
        directory, name = store.model_dir(ref), ref
    else:
        checkpoint = store.find_model(ref)
        return [FileCheck(model=checkpoint.name, file=checkpoint.file.name, problem=_problem(checkpoint.file))]
    files = [directory / file for file in FILES if (directory / file).exists()]
    checks = [FileCheck(model=name, file=file.name, problem=_problem(file)) for file in files]
    if not any((directory / file).exists() for file in CHECKPOINTS.values()):
        checks.append(FileCheck(model=name, file=LAST, problem="there is no checkpoint yet"))
    return checks


def _problem(file: Path) -> str | None:
    try:
        check_file(file)
    except NilrError as error:
        return error.message
    return None


def check_file(file: Path) -> None:
    """Check the whole of a model's file; its name says which kind of file it is."""
    if file.name == TRAINING_STATE:
        load_training_state(file)
    elif file.name == HISTORY:
        for _ in read_history(file):
            pass
    else:
        from nilr.recipes.common.loading import check_model

        check_model(Store(), str(file.absolute()))
