"""One outer step of one loop, as a test takes it."""

from __future__ import annotations

from nilr.episodes import Episode
from nilr.meta.engine.contract import MetaGradient
from nilr.meta.outer_loop import OuterLoop, Report, meta_gradients


def take_step(outer: OuterLoop, episodes: Episode, *, outer_step: int, first_episode: int) -> MetaGradient:
    """Compute the meta-gradient of a batch, apply it and return it."""
    gradient = meta_gradients([outer], [episodes], outer.loss_weights(outer_step))[0]
    query_loss, accuracy, finite = outer.stage(gradient).tolist()
    report = Report(query_loss, accuracy, bool(finite))
    outer.apply(gradient, report, outer_step=outer_step, first_episode=first_episode)
    return gradient
