"""Features of support and query with the requested batch statistics."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from nilr.episodes import Episode

BatchStats = Literal["apart", "together"]


def episode_activations(
    activations: Callable[[Tensor], Mapping[str, Tensor]], episode: Episode, *, batch_stats: BatchStats
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, by layer, the outputs for one episode's support (N*K, ...) and query (N*Q, ...).

    Args:
        activations: maps a batch of images (n, C, H, W) to outputs (n, ...) by layer.
        episode: one episode.
        batch_stats: "apart", support and query are a batch each, as in training; "together", they are one batch.
    """
    if batch_stats == "apart":
        support, query = activations(episode.support_x), activations(episode.query_x)
        return {layer: (support[layer], query[layer]) for layer in support}
    n_support = len(episode.support_x)
    both = activations(torch.cat([episode.support_x, episode.query_x]))
    return {layer: (values[:n_support], values[n_support:]) for layer, values in both.items()}


def episode_features(
    features: Callable[[Tensor], Tensor], episode: Episode, *, batch_stats: BatchStats
) -> tuple[Tensor, Tensor]:
    """Return the same for features (n, D), which have no layers."""
    return episode_activations(lambda x: {"": features(x)}, episode, batch_stats=batch_stats)[""]
