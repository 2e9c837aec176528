"""Query accuracy before and after adaptation, over many episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nilr.episodes import EpisodeSampler
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.workers import in_order
from nilr.metrics import accuracy
from nilr.models.learner import Learner


@dataclass(frozen=True)
class Evaluation:
    """Per-episode query accuracies, each of shape (n_episodes,); `before` only where it was asked for."""

    after: Tensor
    before: Tensor | None


@torch.no_grad()
def evaluate(
    engine: Engine,
    learner: Learner,
    params: Mapping[str, Tensor],
    inner_lr: Mapping[str, Tensor],
    sampler: EpisodeSampler,
    *,
    n_episodes: int,
    steps: int,
    before: bool = False,
    on_episode: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Judge the learner's own head on episodes 0 to `n_episodes` - 1 of the sampler.

    Args:
        engine: what executes the inner loop.
        learner: body and head.
        params: the meta-initialisation.
        inner_lr: the inner rates.
        sampler: gives the episodes.
        n_episodes: how many.
        steps: steps of the inner loop.
        before: whether to judge the meta-initialisation as well.
        on_episode: called after every episode; what it raises ends the evaluation.
    """

    def one(i: int) -> tuple[Tensor, Tensor | None]:
        episode = sampler.draw([i])[0]
        adapted = engine.adapt(learner, params, inner_lr, episode.support_x, episode.support_y, steps=steps)
        judged = [learner_logits(engine, learner, at, episode.query_x) for at in (adapted, params)[: 1 + before]]
        after, *unadapted = (accuracy(logits, episode.query_y) for logits in judged)
        return after, unadapted[0] if before else None

    outcomes = []
    for outcome in in_order(one, range(n_episodes), device=sampler.images.device):
        outcomes.append(outcome)
        on_episode()
    after = torch.stack([after for after, _ in outcomes]).cpu()
    unadapted = [value for _, value in outcomes if value is not None]
    return Evaluation(after, torch.stack(unadapted).cpu() if before else None)


def learner_logits(engine: Engine, learner: Learner, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the logits (n, N) of images (n, C, H, W): the engine's features through the head."""
    features = engine.features(learner, params, x)
    return torch.nn.functional.linear(features, params["head.weight"], params["head.bias"])
