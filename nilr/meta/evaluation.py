"""Query accuracy before and after adaptation, over many episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nilr.episodes import EpisodeSampler
from nilr.errors import DivergedError
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.workers import in_order
from nilr.metrics import accuracy
from nilr.models.learner import Tensors


@dataclass(frozen=True)
class Evaluation:
    """Per-episode query accuracies, each of shape (n_episodes,); `before` only where it was asked for."""

    after: Tensor
    before: Tensor | None


@torch.no_grad()
def evaluate(
    engine: Engine,
    params: Tensors,
    inner_lr: Tensors,
    sampler: EpisodeSampler,
    *,
    n_episodes: int,
    steps: int,
    before: bool = False,
    on_episode: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Judge the learner's own head on episodes 0 to `n_episodes` - 1 of the sampler.

    Args:
        engine: executes the inner loop of the learner.
        params: the meta-initialisation.
        inner_lr: the inner rates.
        sampler: gives the episodes.
        n_episodes: how many.
        steps: steps of the inner loop.
        before: whether to judge the meta-initialisation as well.
        on_episode: called after every episode; what it raises ends the evaluation.

    Raises:
        DivergedError: a logit is not finite, of which no accuracy can be taken.
    """
    at_once, chunk = engine.episodes_at_once, engine.episode_chunk
    parts_at_once = None if chunk is None else max(1, chunk // at_once)

    def some(numbers: range) -> tuple[Tensor, Tensor | None]:
        episodes = sampler.draw(numbers)
        logits = engine.adapted_logits(params, inner_lr, episodes, steps=steps)
        _require_finite(logits, sampler.stream, numbers, steps)
        after = accuracy(logits, episodes.query_y)
        if not before:
            return after, None
        logits = engine.adapted_logits(params, inner_lr, episodes, steps=0)
        return after, accuracy(logits, episodes.query_y)

    outcomes = []
    parts = [range(i, min(i + at_once, n_episodes)) for i in range(0, n_episodes, at_once)]
    for outcome in in_order(some, parts, device=sampler.images.device, at_most=parts_at_once):
        outcomes.append(outcome)
        for _ in outcome[0]:
            on_episode()
    unadapted = [value for _, value in outcomes if value is not None]
    return Evaluation(torch.cat([after for after, _ in outcomes]).cpu(), torch.cat(unadapted).cpu() if before else None)


def _require_finite(logits: Tensor, stream: str, numbers: range, steps: int) -> None:
    broken = (~logits.isfinite().flatten(1).all(1)).nonzero()
    if len(broken):
        raise DivergedError(
            f"the logits of {stream} episode {numbers[int(broken[0])]} are not finite after {steps} inner steps",
            hint="lower --inner-lr, --outer-lr or --eval-inner-steps",
        )
