"""Controls of a probe: raw pixels and an untrained body on the same episodes."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from nilr.episodes import stream_seed
from nilr.meta.engine.contract import Engine
from nilr.metrics import paired_difference
from nilr.models.registry import build_learner
from nilr.probes.conditions import Subject
from nilr.recipes.common.loading import LoadedModel
from nilr.words import signed

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


def build_controls(model: LoadedModel, seed: int) -> dict[str, Subject]:
    """Return the controls by name; the untrained body has the model's architecture and weights drawn by `seed`."""
    architecture = model.checkpoint.manifest.architecture
    arguments: dict[str, Any] = dict(architecture.arguments)
    learner = build_learner(architecture.name, **arguments, seed=stream_seed(seed, "untrained"))
    device = model.params["head.bias"].device
    params = {name: value.to(device) for name, value in learner.initial_params().items()}
    return {UNTRAINED: Subject(params, {}, 0, model.engine), RAW_PIXELS: Subject({}, {}, 0, cast(Engine, RawPixels()))}


def compare_with_untrained(accuracies: Mapping[str, Tensor]) -> str:
    """Describe each model's accuracy before adaptation, by name and episode, minus that of the untrained body."""
    parts = []
    for name, values in accuracies.items():
        if name in (UNTRAINED, RAW_PIXELS):
            continue
        difference = paired_difference(values, accuracies[UNTRAINED])
        width = "" if difference.ci95 is None else f" ± {100 * difference.ci95:.2f}"
        parts.append(f"{name} {signed(100 * difference.mean)}{width} points")
    return f"Features before adaptation, compared with an untrained body's: {'; '.join(parts)}."
