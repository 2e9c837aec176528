"""`nilr models show`: what one checkpoint is, how it was trained, and how good it is."""

import contextlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from nilr.checkpoint import Manifest, load_checkpoint
from nilr.config.base import Settings
from nilr.config.meta_train import TrainSettings
from nilr.config.models import CompareModelsSettings, ModelSettings
from nilr.errors import CheckpointError, NilrError, UsageError
from nilr.history import completed_updates, planned_updates, read_history, training_status
from nilr.models.parameters import layer
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.settings import resolve
from nilr.recipes.models import FILES
from nilr.reporting import Reporter
from nilr.results.commands import ModelCard, ModelComparison, ModelFile, RateRow
from nilr.results.result import Result
from nilr.runtime import environment
from nilr.store import CHECKPOINTS, HISTORY, ModelRef, Store

_BINS = 16
# Settings that the card shows elsewhere, and those that depend on the machine.
_APART = {"algo", "arch", "filters", "widths", "n_way", "n_shot", "seed", "threads", "device"}


def run(settings: ModelSettings, reporter: Reporter) -> Result[ModelCard]:
    """Return the card of the checkpoint that a MODEL argument names, after checking the whole file."""
    outcome = Outcome(settings)
    store = Store(settings.home)
    card = read_card(store, store.find_model(settings.model))
    return outcome.result(card, config={"model": card.name}, environment=environment())


def compare(settings: CompareModelsSettings, reporter: Reporter) -> Result[ModelComparison]:
    """Return in what models differ.

    Raises:
        UsageError: fewer than two models are named.
        StoreError: there is no such model.
    """
    outcome, store = Outcome(settings), Store(settings.home)
    if len(set(settings.models)) < 2:
        hint = f"name two or more; `{store.command('models', 'ls')}` lists them"
        raise UsageError("a comparison needs at least two models", hint=hint)
    found = [read_card(store, store.find_model(ref)) for ref in settings.models]
    cards = {f"{card.name}@{card.checkpoint}": card for card in found}
    comparison = ModelComparison(
        models=list(cards),
        settings=_differences({name: _recipe(card.manifest) for name, card in cards.items()}),
        metrics=_differences({name: card.manifest.metrics for name, card in cards.items()}),
        rates_by_layer={
            row.name: {
                name: other for name, card in cards.items() for other in card.rates_by_layer if other.name == row.name
            }
            for card in cards.values()
            for row in card.rates_by_layer
        },
    )
    return outcome.result(comparison, config={"models": list(cards)}, environment=environment())


def _recipe(manifest: Manifest) -> dict[str, JsonValue]:
    """Return the settings of a training with its body and its pack; resolved settings contain the algorithm's row."""
    body: dict[str, JsonValue] = {"arch": manifest.architecture.name, **manifest.architecture.arguments}
    data: dict[str, JsonValue] = {"data": manifest.data.name, "data digest": manifest.data.digest}
    return {
        "algo": manifest.algorithm.get("name"),
        **body,
        **data,
        **manifest.settings,
        "outer_step": manifest.outer_step,
    }


def _differences(values: Mapping[str, Mapping[str, JsonValue]]) -> dict[str, dict[str, JsonValue]]:
    """Return, by key, the values of all models, where they are not all equal."""
    keys = dict.fromkeys(key for of_model in values.values() for key in of_model)
    found = {key: {name: of_model.get(key) for name, of_model in values.items()} for key in keys}
    return {key: row for key, row in found.items() if any(value != next(iter(row.values())) for value in row.values())}


def read_card(store: Store, ref: ModelRef) -> ModelCard:
    """Return the card of a checkpoint; CheckpointError if the file is invalid."""
    checkpoint = load_checkpoint(ref.file)
    tensors = sorted(checkpoint.inner_lr.items())
    layers: dict[str, list[Tensor]] = {}
    for name, rates in tensors:
        layers.setdefault(layer(name), []).append(rates)
    in_directory = ref.checkpoint in CHECKPOINTS
    manifest = checkpoint.manifest
    updates = completed_updates(ref.directory, manifest) if in_directory else manifest.outer_step
    running = ref.directory.parent == store.home / "models" and store.in_use(ref.name)
    directory = ref.directory if in_directory else None
    status, problem = training_status(directory, updates, planned_updates(manifest), running=running)
    validations = []
    if in_directory:
        with contextlib.suppress(CheckpointError):
            validations += [
                line.val_accuracy.mean for line in read_history(ref.directory / HISTORY) if line.val_accuracy
            ]
    files = [ref.directory / name for name in FILES] if in_directory else [ref.file]
    return ModelCard(
        name=ref.name,
        checkpoint=ref.checkpoint,
        status=status,
        problem=problem,
        manifest=manifest,
        n_params=sum(tensor.numel() for tensor in checkpoint.params.values()),
        rates_by_tensor=[_rates(name, [rates]) for name, rates in tensors],
        rates_by_layer=[_rates(name, rates) for name, rates in layers.items()],
        changed_settings=_changed_settings(manifest),
        validations=validations,
        files=[_file(file) for file in files if file.exists()],
    )


def _file(path: Path) -> ModelFile:
    state = path.stat()
    modified_at = datetime.fromtimestamp(state.st_mtime, UTC).isoformat()
    return ModelFile(name=path.name, bytes=state.st_size, modified_at=modified_at)


def _changed_settings(manifest: Manifest) -> dict[str, JsonValue]:
    """Return the stored settings of the training that differ from the defaults of its algorithm."""
    try:
        defaults = resolve(TrainSettings(algo=str(manifest.algorithm.get("name"))))[0]
    except NilrError:
        defaults = TrainSettings()
    default: dict[str, Any] = defaults.model_dump(mode="json", exclude={*Settings.model_fields, *_APART})
    return {
        name: value
        for name, value in manifest.settings.items()
        if name in default and value is not None and value != default[name]
    }


def _rates(name: str, rates: Iterable[Tensor]) -> RateRow:
    values = torch.cat([rate.reshape(-1).double() for rate in rates])
    low, high = values.min().item(), values.max().item()
    return RateRow(
        name=name,
        count=values.numel(),
        min=low,
        mean=values.mean().item(),
        max=high,
        share_negative=(values < 0).double().mean().item(),
        histogram=[int(n) for n in torch.histc(values, _BINS, low, high)] if low < high else [],
    )
