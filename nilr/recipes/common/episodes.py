"""What `adapt`, `probe` and `rates` share: the size of episodes, the steps and the rates, as asked for or trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nilr.config.judging import TaskSettings
from nilr.errors import EpisodeError
from nilr.probes.edits import find_edit, rates_of_part
from nilr.recipes.common.loading import LoadedModel


@dataclass(frozen=True)
class EpisodeSize:
    """Classes, support and query images per class."""

    n_way: int
    n_shot: int
    n_query: int


def episode_size(settings: TaskSettings, models: Sequence[LoadedModel]) -> EpisodeSize:
    """Return the size of the judged episodes: as asked for, else as the models were trained.

    Raises:
        EpisodeError: the models were trained differently and nothing was asked for, or a head has another number of
            classes.
    """
    asked = settings.model_dump(include=set(EpisodeSize.__annotations__))
    size = EpisodeSize(**{name: _one(name, asked.get(name), models) for name in EpisodeSize.__annotations__})
    for model in models:
        outputs = len(model.params["head.bias"])
        if outputs != size.n_way:
            raise EpisodeError(
                f"model `{model.ref.name}` has a head for {outputs} classes and cannot adapt to {size.n_way}",
                hint=f"use --n-way {outputs}, or a model trained with --n-way {size.n_way}",
            )
    return size


def inner_steps(settings: TaskSettings, model: LoadedModel) -> int:
    """Return the steps of the inner loop: as asked for, else the model's own for judging."""
    return model.algorithm.eval_inner_steps if settings.inner_steps is None else settings.inner_steps


def split_commas(values: Iterable[str]) -> tuple[str, ...]:
    """Return the words of an option that may be repeated and may hold several, with commas between; each once."""
    return tuple(dict.fromkeys(word.strip() for value in values for word in value.split(",")))


def edit_names(values: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the edits that --rates asks for.

    Raises:
        UnknownNameError: there is no such edit.
    """
    names = split_commas(values)
    for name in names:
        find_edit(name)
    return names


def unmoved_notes(models: Mapping[str, LoadedModel], parts: Sequence[str]) -> list[str]:
    """Say of which models nothing moves, since their inner loop moves none of the parts.

    Raises:
        UnknownNameError: a model has no such part.
    """
    return [
        f"Nothing of {name} moves: {model.algorithm.name} moves the {model.algorithm.moves} alone, and --adapt-part is "
        f"{','.join(parts)}."
        for name, model in models.items()
        if not rates_of_part(model.inner_lr, model.params, parts)
    ]


def _one(name: str, asked: int | None, models: Sequence[LoadedModel]) -> int:
    if asked is not None:
        return asked
    trained = {model.ref.name: model.settings.get(name) for model in models}
    values = set(trained.values())
    value = values.pop()
    flag = "--" + name.replace("_", "-")
    if values:
        said = ", ".join(f"`{model}` {value}" for model, value in trained.items())
        raise EpisodeError(f"the models were trained with different {flag}: {said}", hint=f"say which: {flag} {value}")
    if not isinstance(value, int) or value < 1:
        said = f"`{models[0].ref.name}` says that it was trained with {flag} {value}"
        raise EpisodeError(f"{said}, which cannot be", hint=f"say with {flag} what to judge with")
    return value
