"""The registry: list, show, verify and remove models. Listing reads headers only and does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from nilr.checkpoint import Manifest, load_checkpoint, read_manifest
from nilr.errors import CheckpointError, NilrError, invalid_field
from nilr.history import completed_updates, read_history
from nilr.results.records import Record
from nilr.store import BEST, CHECKPOINTS, HISTORY, LAST, TRAINING_STATE, Store
from nilr.training_state import read_training_state

if TYPE_CHECKING:
    from torch import Tensor

Status = Literal["complete", "incomplete", "unreadable"]


class ModelRow(Record):
    """One model in a list. What its checkpoint does not say, or what cannot be read, is None.

    Attributes:
        status: complete; incomplete, where its training has more updates to go; or unreadable.
        outer_step: completed outer updates, of `outer_steps`.
        val_accuracy: the best validation's, a fraction.
        parent: the model it was adapted from.
        problem: what makes it unreadable.
    """

    name: str
    status: Status
    algo: str | None = None
    arch: str | None = None
    n_way: int | None = None
    n_shot: int | None = None
    outer_step: int | None = None
    outer_steps: int | None = None
    val_accuracy: float | None = None
    saved_at: str | None = None
    parent: str | None = None
    problem: str | None = None


class RateRow(Record):
    """The inner rates of one tensor or layer: how many, and how they are spread."""

    name: str
    count: int
    min: float
    mean: float
    max: float
    share_negative: float


class ModelCard(Record):
    """All that is known of one checkpoint.

    Attributes:
        n_params: parameters, as single numbers.
        rates_by_tensor: the inner rates of every parameter that the inner loop moves.
        rates_by_layer: the same, of a layer's tensors together.
    """

    name: str
    checkpoint: str
    manifest: Manifest
    n_params: int
    rates_by_tensor: list[RateRow]
    rates_by_layer: list[RateRow]


class FileCheck(Record):
    """One file of a model, and what is wrong with it; None where nothing is."""

    model: str
    file: str
    problem: str | None = None


def list_models(home: Path | None) -> list[ModelRow]:
    """Return all models of the store, in name order; one that cannot be read is a row like any other.

    Raises:
        StoreError: the store itself cannot be read.
    """
    store = Store(home)
    rows = [(store.model_dir(name), _row(name, store.model_dir(name))) for name in store.model_names()]
    return [row for directory, row in rows if row.problem is None or directory.exists()]  # some may have been removed


def show_model(home: Path | None, ref: str | None) -> ModelCard:
    """Return the card of the checkpoint that a MODEL argument means, after checking all of it.

    Raises:
        StoreError: there is no such model.
        CheckpointError: it cannot be used.
    """
    found = Store(home).find_model(ref)
    checkpoint = load_checkpoint(found.file)
    layers: dict[str, list[Tensor]] = {}
    for name, rate in sorted(checkpoint.inner_lr.items()):
        layers.setdefault(name.rpartition(".")[0], []).append(rate)
    return ModelCard(
        name=found.name,
        checkpoint=found.checkpoint,
        manifest=checkpoint.manifest,
        n_params=sum(tensor.numel() for tensor in checkpoint.params.values()),
        rates_by_tensor=[_rates(name, [rate]) for name, rate in sorted(checkpoint.inner_lr.items())],
        rates_by_layer=[_rates(name, rates) for name, rates in layers.items()],
    )


def model_path(home: Path | None, ref: str | None) -> Path:
    """Return the file of the checkpoint that a MODEL argument means.

    Raises:
        StoreError: there is no such model.
    """
    return Store(home).find_model(ref).file


def verify_models(home: Path | None, refs: Sequence[str] = ()) -> list[FileCheck]:
    """Read all files of the models, of all models where none is given, and say what is wrong with each.

    A checkpoint is right when its digests are and its learner can be rebuilt.

    Raises:
        StoreError: there is no such model.
    """
    store = Store(home)
    return [check for ref in refs or store.model_names() for check in _verify(store, ref)]


def remove_models(home: Path | None, names: Sequence[str]) -> None:
    """Remove models; where one of them is not there, none is removed.

    Raises:
        StoreError: there is no such model, it is in use, or the store cannot be written.
    """
    store = Store(home)
    for name in names:
        store.require_model(name)
    for name in names:
        store.remove_model(name)


def _row(name: str, directory: Path) -> ModelRow:
    try:
        files = [directory / file for file in CHECKPOINTS.values()]
        manifests = [read_manifest(file) for file in files if file.is_file()]
        if not manifests:
            return ModelRow(name=name, status="incomplete")
        return describe(name, manifests[-1], completed_updates(directory, manifests[-1]))
    except (CheckpointError, OSError) as error:
        return ModelRow(name=name, status="unreadable", problem=str(error))


def describe(name: str, manifest: Manifest, outer_step: int) -> ModelRow:
    """Return the row of the model whose newest checkpoint has this manifest, after this many updates.

    Raises:
        CheckpointError: what the manifest says of it is of the wrong type.
    """
    try:
        return _described(name, manifest, outer_step)
    except ValidationError as error:
        raise CheckpointError(f"manifest field {invalid_field(error)}") from error


def _described(name: str, manifest: Manifest, outer_step: int) -> ModelRow:
    settings = manifest.settings
    total: Any = settings.get("outer_steps") if manifest.parent is None else None
    best: Any = manifest.metrics.get("best_val_accuracy")
    return ModelRow.model_validate(
        {
            "name": name,
            "status": "incomplete" if isinstance(total, int) and outer_step < total else "complete",
            "algo": manifest.algorithm.get("name"),
            "arch": manifest.architecture.name,
            "n_way": manifest.architecture.arguments.get("n_way"),
            "n_shot": settings.get("n_shot"),
            "outer_step": outer_step,
            "outer_steps": total,
            "val_accuracy": best.get("mean") if isinstance(best, Mapping) else None,
            "saved_at": manifest.saved_at,
            "parent": manifest.parent.name if manifest.parent else None,
        }
    )


def _rates(name: str, rates: Iterable[Tensor]) -> RateRow:
    import torch

    values = torch.cat([rate.reshape(-1).double() for rate in rates])
    return RateRow(
        name=name,
        count=values.numel(),
        min=values.min().item(),
        mean=values.mean().item(),
        max=values.max().item(),
        share_negative=(values < 0).double().mean().item(),
    )


def _verify(store: Store, ref: str) -> list[FileCheck]:
    if "/" in ref and Path(ref).is_dir():
        directory, name = Path(ref), Path(ref).absolute().name
    elif ref in store.model_names():
        directory, name = store.model_dir(ref), ref
    else:
        found = store.find_model(ref)
        return [_check(found.name, found.file)]
    checks = [_check(name, directory / file) for file in FILES if (directory / file).exists()]
    if not any((directory / file).exists() for file in CHECKPOINTS.values()):
        checks.append(FileCheck(model=name, file=LAST, problem="there is no checkpoint yet"))
    return checks


def _check(model: str, file: Path) -> FileCheck:
    try:
        check_file(file)
    except NilrError as error:
        return FileCheck(model=model, file=file.name, problem=error.message)
    return FileCheck(model=model, file=file.name)


def check_file(file: Path) -> None:
    """Read a file of a model, told by its name, and check all of it.

    Raises:
        NilrError: it cannot be used.
    """
    _CHECKERS.get(file.name, _check_checkpoint)(file)


def _check_checkpoint(file: Path) -> None:
    import torch

    from nilr.recipes.common.loading import load_model

    load_model(Store(), str(file.absolute()), device=torch.device("cpu"), engine="auto")


def _check_history(file: Path) -> None:
    for _ in read_history(file):
        pass


_CHECKERS: dict[str, Callable[[Path], object]] = {
    BEST: _check_checkpoint,
    LAST: _check_checkpoint,
    TRAINING_STATE: read_training_state,
    HISTORY: _check_history,
}
FILES = tuple(_CHECKERS)
