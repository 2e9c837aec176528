"""Features of support and query, with the batch statistics that the judge chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from nilr.episodes import Episode

BatchStats = Literal["apart", "together"]


def episode_features(
    features: Callable[[Tensor], Tensor], episode: Episode, *, batch_stats: BatchStats
) -> tuple[Tensor, Tensor]:
    """Return the features of one episode's support (N*K, ...) and query (N*Q, ...).

    Args:
        features: maps one batch of images (n, C, H, W) to (n, ...).
        episode: one episode.
        batch_stats: "apart", support and query normalised as a batch each, as in training; "together", as one batch.
    """
    if batch_stats == "apart":
        return features(episode.support_x), features(episode.query_x)
    n_support = len(episode.support_x)
    both = features(torch.cat([episode.support_x, episode.query_x]))
    return both[:n_support], both[n_support:]


def episode_activations(
    activations: Callable[[Tensor], Mapping[str, Tensor]], episode: Episode, *, batch_stats: BatchStats
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by layer what `episode_features` returns; `activations` maps images to (n, ...) by layer."""
    if batch_stats == "apart":
        support, query = activations(episode.support_x), activations(episode.query_x)
        return {layer: (support[layer], query[layer]) for layer in support}
    n_support = len(episode.support_x)
    both = activations(torch.cat([episode.support_x, episode.query_x]))
    return {layer: (values[:n_support], values[n_support:]) for layer, values in both.items()}
