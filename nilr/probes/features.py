"""Features of support and query with the requested batch statistics."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.meta.engine.contract import Engine
from nilr.models.learner import Statistics, Tensors

# How batch normalisation normalises: "apart", support and query are a batch each; "together", they are one batch;
# "inductive", the support's statistics normalise the queries too, so that no query depends on another one.
BatchStats = Literal["apart", "together", "inductive"]
QueryBatch = Literal["all", "class", "image"]  # queries in one batch


def query_batches(episode: Episode, query_batch: QueryBatch) -> list[Episode]:
    """Return an episode as several with the same support and one batch of queries each."""
    if query_batch == "all":
        return [episode]
    keys = episode.query_y if query_batch == "class" else torch.arange(len(episode.query_y))
    chosen = [(keys == key).nonzero()[:, 0] for key in sorted(set(keys.tolist()))]
    return [replace(episode, query_x=episode.query_x[one], query_y=episode.query_y[one]) for one in chosen]


def episode_activations(
    engine: Engine, params: Tensors, episode: Episode, *, batch_stats: BatchStats
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, by layer, the outputs for one episode's support (N*K, ...) and query (N*Q, ...)."""

    def outputs(x: Tensor, statistics: Statistics | None = None) -> Mapping[str, Tensor]:
        return engine.activations(params, x, statistics)

    return _support_and_query(outputs, engine, params, episode, batch_stats)


def episode_features(
    engine: Engine, params: Tensors, episode: Episode, *, batch_stats: BatchStats
) -> tuple[Tensor, Tensor]:
    """Return the same for features (n, D), which have no layers."""

    def outputs(x: Tensor, statistics: Statistics | None = None) -> Mapping[str, Tensor]:
        return {"": engine.features(params, x, statistics)}

    return _support_and_query(outputs, engine, params, episode, batch_stats)[""]


def _support_and_query(
    outputs: Callable[..., Mapping[str, Tensor]],
    engine: Engine,
    params: Tensors,
    episode: Episode,
    batch_stats: BatchStats,
) -> dict[str, tuple[Tensor, Tensor]]:
    if batch_stats == "together":
        n_support = len(episode.support_x)
        both = outputs(torch.cat([episode.support_x, episode.query_x]))
        return {layer: (values[:n_support], values[n_support:]) for layer, values in both.items()}
    statistics = engine.statistics(params, episode.support_x) if batch_stats == "inductive" else None
    support, query = outputs(episode.support_x), outputs(episode.query_x, statistics)
    return {layer: (support[layer], query[layer]) for layer in support}
