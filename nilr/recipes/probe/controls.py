"""Controls of a probe: raw pixels and untrained bodies on the same episodes."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from nilr.episodes import stream_seed
from nilr.errors import UsageError
from nilr.meta.engine.contract import Engine
from nilr.meta.model import Model
from nilr.metrics import mean_interval, paired_difference
from nilr.models.learner import Params
from nilr.models.registry import build_learner
from nilr.probes.conditions import Quantity, Subject
from nilr.probes.readings import NeighbourAccuracy
from nilr.recipes.common.loading import LoadedModel
from nilr.results.probe import ModelProbe, OverBodies
from nilr.sections.values import Values
from nilr.words import counted, signed

# A model in the registry cannot have a name with a space.
UNTRAINED, RAW_PIXELS = "untrained body", "raw pixels"


class RawPixels:
    """The part of an engine that a control needs, with images as their own features."""

    def statistics(self, _params: Mapping[str, Tensor], _x: Tensor) -> dict[str, Tensor]:
        """Return no statistics: pixels are not normalised."""
        return {}

    def features(self, _params: Mapping[str, Tensor], x: Tensor, _statistics: object = None) -> Tensor:
        """Return the pixels (n, C*H*W) of images (n, C, H, W)."""
        return x.flatten(1)


def build_controls(model: Model, subject: Subject, seed: int, n_bodies: int) -> dict[str, Subject]:
    """Return the controls of a model by name, the untrained bodies with a number.

    An untrained body has the model's architecture and weights drawn by `seed`; batches are those of `subject`.

    Raises:
        UsageError: the body is a module in memory, which has no other weights.
    """
    still = dataclasses.replace(subject, params={}, inner_lr={}, inner_steps=0, edits={})
    controls = {}
    for i in range(n_bodies):
        drawn = _untrained(model, stream_seed(seed, f"untrained/{i}"))
        params = {name: value.to(model.params["head.bias"].device) for name, value in drawn.items()}
        controls[f"{UNTRAINED} {i}"] = dataclasses.replace(still, params=params)
    return controls | {RAW_PIXELS: dataclasses.replace(still, engine=cast(Engine, RawPixels()))}


def _untrained(model: Model, seed: int) -> Params:
    if isinstance(model, LoadedModel):
        architecture = model.checkpoint.manifest.architecture
        arguments: dict[str, Any] = dict(architecture.arguments)
        return build_learner(architecture.name, **arguments, seed=seed).initial_params()
    if model.learner.body.keeps_weights:
        hint = "leave them out, or load a model that was trained with an import path"
        raise UsageError("controls need untrained bodies, and one's own module has no other weights", hint=hint)
    learner = copy.deepcopy(model.learner)
    learner.initialise(torch.Generator().manual_seed(seed))
    return learner.initial_params()


def kind_of_control(name: str) -> str:
    """Return the name in the result of what a probe measures: that of an untrained body has no number there."""
    return UNTRAINED if name.startswith(f"{UNTRAINED} ") else name


def join_bodies(values: Mapping[str, Values]) -> dict[str, Values]:
    """Return values by name in the result: those of the untrained bodies become one, their mean in each episode."""
    joined: dict[str, list[Values]] = {}
    for name, found in values.items():
        joined.setdefault(kind_of_control(name), []).append(found)
    return {name: _mean_of(found) if name == UNTRAINED else found[0] for name, found in joined.items()}


def _mean_of(bodies: Sequence[Values]) -> Values:
    means = {quantity: torch.stack([body[quantity] for body in bodies]).mean(0) for quantity in bodies[0].by_quantity}
    return dataclasses.replace(bodies[0], by_quantity=means, bodies=tuple(bodies))


def with_bodies(metrics: ModelProbe, values: Values) -> ModelProbe:
    """Return the metrics of the untrained bodies with their accuracies over bodies."""
    found = {
        quantity.reading.neighbours: over_bodies(values, quantity)
        for quantity in values.by_quantity
        if isinstance(quantity.reading, NeighbourAccuracy) and quantity.reading.layer is None
    }
    return metrics.model_copy(update={"over_bodies": found})


def over_bodies(values: Values, quantity: Quantity) -> OverBodies:
    """Return a quantity of the untrained bodies over bodies, each a mean over episodes."""
    means = torch.stack([body[quantity].mean() for body in values.bodies])
    interval = mean_interval(means)
    return OverBodies(mean=interval.mean, ci95=interval.ci95, bodies=means.tolist())


def compare_with_untrained(accuracies: Mapping[str, Tensor], bodies: OverBodies) -> str:
    """Describe each model's accuracy before adaptation, by name and episode, minus the mean of the untrained bodies."""
    parts = []
    for name, values in accuracies.items():
        if name in (UNTRAINED, RAW_PIXELS):
            continue
        difference = paired_difference(values, accuracies[UNTRAINED])
        width = "" if difference.ci95 is None else f" ± {100 * difference.ci95:.2f}"
        parts.append(f"{name} {signed(100 * difference.mean)}{width} points")
    width = "" if bodies.ci95 is None else f" ± {100 * bodies.ci95:.2f}"
    n = counted(len(bodies.bodies), "untrained body", "untrained bodies")
    return (
        f"Features before adaptation, compared with the mean of {n} ({100 * bodies.mean:.2f}{width} % over bodies): "
        f"{'; '.join(parts)}."
    )
