"""Controls of a probe: what raw pixels and an untrained body reach on the same episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nilr.episodes import stream_seed
from nilr.metrics import paired_difference
from nilr.models.registry import build_learner
from nilr.probes.conditions import Seeing, Subject
from nilr.recipes.common.loading import LoadedModel

# No model of the registry can have a name with a space in it.
UNTRAINED, RAW_PIXELS = "untrained body", "raw pixels"


class RawPixels:
    """Images as their own features."""

    params: Mapping[str, Tensor] = {}

    def features(self, _params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the pixels (n, C*H*W) of images (n, C, H, W)."""
        return x.flatten(1)

    def activations(self, _params: Mapping[str, Tensor], x: Tensor) -> Mapping[str, Tensor]:
        """Return the pixels as the only layer."""
        return {"pixels": x}


def controls(model: LoadedModel, seed: int) -> dict[str, Seeing]:
    """Return the controls by name.

    Args:
        model: gives the architecture of the untrained body.
        seed: seed of the untrained body's weights.
    """
    architecture = model.checkpoint.manifest.architecture
    arguments: dict[str, Any] = dict(architecture.arguments)
    learner = build_learner(architecture.name, **arguments, seed=stream_seed(seed, "untrained"))
    device = model.params["head.bias"].device
    params = {name: value.to(device) for name, value in learner.initial_params().items()}
    return {UNTRAINED: Subject(learner, params, {}, 0, model.engine), RAW_PIXELS: RawPixels()}


def against_untrained(accuracies: Mapping[str, Tensor]) -> str:
    """Say by how much each model's features before adaptation beat an untrained body's, episode by episode."""
    parts = []
    for name, values in accuracies.items():
        if name in (UNTRAINED, RAW_PIXELS):
            continue
        difference = paired_difference(values, accuracies[UNTRAINED])
        width = "" if difference.ci95 is None else f" ± {100 * difference.ci95:.2f}"
        parts.append(f"{name} {100 * difference.mean:+.2f}{width} points")
    return f"Features before adaptation, against an untrained body's: {'; '.join(parts)}."
