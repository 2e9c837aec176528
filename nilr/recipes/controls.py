"""Controls of a probe: what raw pixels and an untrained body reach on the same episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nilr.episodes import Episode, stream_seed
from nilr.metrics import paired_difference
from nilr.models.registry import build_learner
from nilr.probes.protocols import Judge, Subject
from nilr.recipes.loading import LoadedModel

# No model of the registry can have a name with a space in it.
UNTRAINED, RAW_PIXELS = "untrained body", "raw pixels"


def control_judges(model: LoadedModel, judge: Judge, seed: int) -> dict[str, Callable[[Episode], float]]:
    """Return for each control what judges an episode.

    Args:
        model: gives the architecture of the untrained body.
        judge: how features are judged.
        seed: seed of the untrained body's weights.
    """
    architecture = model.checkpoint.manifest.architecture
    arguments: dict[str, Any] = dict(architecture.arguments)
    learner = build_learner(architecture.name, **arguments, seed=stream_seed(seed, "untrained"))
    device = model.params["head.bias"].device
    params = {name: value.to(device) for name, value in learner.initial_params().items()}
    untrained = Subject(learner, params, {}, 0, model.engine)
    return {
        UNTRAINED: lambda episode: judge.accuracy(untrained, params, episode),
        RAW_PIXELS: lambda episode: judge.of_features(
            episode.support_x.flatten(1), episode.query_x.flatten(1), episode
        ),
    }


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
