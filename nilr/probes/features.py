"""Features of support and query, with the batch statistics that the judge chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.meta.engine.contract import Engine
from nilr.models.learner import Learner


def episode_features(
    engine: Engine,
    learner: Learner,
    params: Mapping[str, Tensor],
    episode: Episode,
    *,
    batch_stats: Literal["apart", "together"],
) -> tuple[Tensor, Tensor]:
    """Return the features of one episode's support (N*K, D) and query (N*Q, D).

    Args:
        engine: what executes the body.
        learner: body and head.
        params: meta-initialisation or adapted parameters.
        episode: one episode.
        batch_stats: "apart", support and query normalised as a batch each, as in training; "together", as one batch.
    """
    if batch_stats == "apart":
        return tuple(engine.features(learner, params, x) for x in (episode.support_x, episode.query_x))  # type: ignore[return-value]
    n_support = len(episode.support_x)
    features = engine.features(learner, params, torch.cat([episode.support_x, episode.query_x]))
    return features[:n_support], features[n_support:]
