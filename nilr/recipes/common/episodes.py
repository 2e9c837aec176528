"""Episode size, inner steps and rates of `adapt`, `probe` and `rates`: from the settings, or from the models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from nilr.config.base import BatchStats, HeadChoice
from nilr.config.evaluation import JudgeSettings, TaskSettings
from nilr.errors import EpisodeError
from nilr.meta.model import Model
from nilr.models.heads import resize_head
from nilr.probes.edits import EDITS, find_edit, rates_of_part
from nilr.recipes.common.loading import LoadedModel
from nilr.words import as_flag, some

AnyModel = TypeVar("AnyModel", bound=Model)


@dataclass(frozen=True)
class EpisodeSize:
    """Classes, support and query images per class."""

    n_way: int
    n_shot: int
    n_query: int


def episode_size(settings: TaskSettings, models: Sequence[LoadedModel]) -> EpisodeSize:
    """Return the episode size from the settings, or from the models' training if it is not set."""
    names = EpisodeSize.__annotations__
    return EpisodeSize(**{name: _size(name, getattr(settings, name, None), models) for name in names})


def with_head(model: AnyModel, n_way: int, choice: HeadChoice) -> AnyModel:
    """Return the model with a head for `n_way` classes; unchanged if it has one and the choice is its own rows."""
    params, inner_lr = resize_head(model.params, model.inner_lr, n_way, choice)
    return replace(model, params=params, inner_lr=inner_lr)


def head_notes(models: Mapping[str, Model], n_way: int, choice: HeadChoice) -> list[str]:
    """Return a note for each model whose head is not the trained one; the models are as they were loaded."""
    words = {
        "rows": "its trained rows in turn",
        "mean": "copies of the mean of its head's rows",
        "zeros": "a head of zeros",
    }[choice]
    notes = []
    for name, model in models.items():
        outputs = len(model.params["head.bias"])
        if outputs != n_way or choice != "rows":
            trained = f" has a head for {outputs} classes; for {n_way} it" if outputs != n_way else ""
            notes.append(f"{name}{trained} starts from {words} (--head {choice}).")
    return notes


def inner_steps(settings: TaskSettings, model: Model) -> int:
    """Return the inner steps from the settings, or the model's for evaluation if they are not set."""
    return model.algorithm.eval_inner_steps if settings.inner_steps is None else settings.inner_steps


def batch_stats(settings: JudgeSettings, model: Model) -> BatchStats:
    """Return the batch statistics from the settings, or those of the model's training if they are not set."""
    return settings.batch_stats or ("inductive" if model.inductive else "apart")


def dependence_notes(statistics: Iterable[BatchStats]) -> list[str]:
    """Return a note if predictions depend on the set of queries."""
    found = [name for name in dict.fromkeys(statistics) if name != "inductive"]
    if not found:
        return []
    custom = ", the field's custom" if found == ["apart"] else ""
    return [
        f"Batch statistics are {' or '.join(found)}{custom}: each prediction depends on the other query images; "
        "--batch-stats inductive avoids this."
    ]


def split_commas(values: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct values of a flag that may be repeated and may contain commas."""
    return tuple(dict.fromkeys(word.strip() for value in values for word in value.split(",")))


def edit_names(values: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the edits in --rates, and equal numbers once; UnknownNameError if an edit is unknown."""
    found: dict[object, str] = {}
    for name in split_commas(values):
        find_edit(name)
        found.setdefault(name if name in EDITS else float(name), name)
    return tuple(found.values())


def unmoved_notes(models: Mapping[str, Model], parts: Sequence[str]) -> list[str]:
    """Return a note for each model whose inner loop adapts none of the parts."""
    return [
        f"{name} is not adapted: {model.algorithm.name} adapts only the {model.algorithm.moves}, and --adapt-part is "
        f"{','.join(parts)}."
        for name, model in models.items()
        if not rates_of_part(model.inner_lr, model.params, parts)
    ]


def _size(name: str, value: int | None, models: Sequence[LoadedModel]) -> int:
    if value is not None:
        return value
    trained = {model.ref.name: model.settings.get(name) for model in models}
    first, *others = dict.fromkeys(trained.values())
    flag = as_flag(name)
    if others:
        values = some([f"`{model}` {value}" for model, value in trained.items()])
        raise EpisodeError(f"the models were trained with different {flag}: {values}", hint=f"set {flag}")
    if not isinstance(first, int) or first < 1:
        raise EpisodeError(f"`{models[0].ref.name}` has an invalid stored setting: {flag} {first}", hint=f"set {flag}")
    return first
