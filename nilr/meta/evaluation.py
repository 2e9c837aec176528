"""Query accuracy after adaptation, over many episodes."""

from collections.abc import Callable

import torch
from torch import Tensor

from nilr.episodes import EpisodeSampler
from nilr.errors import DivergedError
from nilr.meta.engine.contract import Engine
from nilr.meta.engine.workers import in_order
from nilr.metrics import accuracy
from nilr.models.learner import Tensors
from nilr.words import counted


@torch.no_grad()
def evaluate(
    engine: Engine,
    params: Tensors,
    inner_lr: Tensors,
    sampler: EpisodeSampler,
    *,
    n_episodes: int,
    steps: int,
    inductive: bool = False,
    on_episode: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return the accuracies (n_episodes,) of the learner's own head on the sampler's episodes, from number 0.

    `steps` is the number of inner steps, `inductive` that of `Objective`. `on_episode` is called after every episode;
    its exceptions end the evaluation.

    Raises:
        DivergedError: a logit is not finite.
    """
    at_once, chunk = engine.episodes_at_once, engine.episode_chunk

    def evaluate_part(numbers: range) -> Tensor:
        episodes = sampler.draw(numbers)
        logits = engine.adapted_logits(params, inner_lr, episodes, steps=steps, inductive=inductive)
        broken = (~logits.isfinite().flatten(1).all(1)).nonzero()
        if len(broken):
            number = numbers[int(broken[0])]
            raise DivergedError(
                f"the logits of {sampler.stream} episode {number} are not finite after {counted(steps, 'inner step')}",
                hint="lower --inner-lr, --outer-lr or --eval-inner-steps",
            )
        return accuracy(logits, episodes.query_y)

    outcomes = []
    parts = [range(i, min(i + at_once, n_episodes)) for i in range(0, n_episodes, at_once)]
    at_most = None if chunk is None else max(1, chunk // at_once)
    for outcome in in_order(evaluate_part, parts, device=sampler.images.device, at_most=at_most):
        outcomes.append(outcome)
        for _ in outcome:
            on_episode()
    return torch.cat(outcomes).cpu()
