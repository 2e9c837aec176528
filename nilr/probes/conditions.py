"""Conditions and readings: each condition's parameters and features are computed once, however much is read of them.

A condition says how the parameters that see the judged episode come about. A view is what the body makes of that
episode under one condition. A reading is a number that is taken of a view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.errors import DivergedError
from nilr.meta.engine.contract import Engine
from nilr.models.learner import Learner
from nilr.probes.edits import LEARNED, NORM_MATCHED, adapt
from nilr.probes.features import BatchStats, episode_activations, episode_features
from nilr.probes.similarity import identities


@dataclass(frozen=True)
class Condition:
    """How the parameters that see the judged episode come about.

    Attributes:
        protocol: `meta-init`, no adaptation; else which of the tasks' episodes is adapted to.
        rates: the edit of the inner rates (see `nilr.probes.edits`).
        steps: of the inner loop; None: as many as the subject takes.
        shared: of cross-task, how many classes its episode A shares with B; None: as `TaskPairs.task_b` says.
    """

    protocol: str
    rates: str = LEARNED
    steps: int | None = None
    shared: int | None = None

    @property
    def task(self) -> str:
        """Which of the tasks' episodes is adapted to."""
        return self.protocol if self.shared is None else shared_task(self.shared)


def shared_task(shared: int) -> str:
    """Return the name of the task whose episode A shares so many classes with B."""
    return f"cross-task, {shared} shared"


META_INIT = Condition("meta-init")


@dataclass(frozen=True)
class Tasks:
    """The judged episode, and the episodes that are adapted to.

    Attributes:
        judged: episode B.
        adapted: the episode of each task that is adapted to: B for `same-task`, A for `cross-task`.
    """

    judged: Episode
    adapted: Mapping[str, Episode]


class Seeing(Protocol):
    """What turns images into features."""

    @property
    def params(self) -> Mapping[str, Tensor]:
        """The meta-initialisation, by name."""

    def features(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the features (n, D) of images (n, C, H, W)."""

    def activations(self, params: Mapping[str, Tensor], x: Tensor) -> Mapping[str, Tensor]:
        """Return the outputs (n, ...) of the layers by name, the features last, of images (n, C, H, W)."""


@dataclass(frozen=True)
class Subject:
    """A model under the probe.

    Attributes:
        learner: body and head.
        params: its meta-initialisation, by name.
        inner_lr: its inner rates, by name.
        inner_steps: steps of the inner loop.
        engine: what executes it.
        edits: its inner rates under each edit that a condition names, by the edit's name.
    """

    learner: Learner
    params: Mapping[str, Tensor]
    inner_lr: Mapping[str, Tensor]
    inner_steps: int
    engine: Engine
    edits: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def features(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return the features (n, D) of images (n, C, H, W)."""
        return self.engine.features(self.learner, params, x)

    def activations(self, params: Mapping[str, Tensor], x: Tensor) -> Mapping[str, Tensor]:
        """Return the outputs (n, C, H, W) of the body's layers by name, in order, of images (n, C, H, W)."""
        return self.engine.activations(self.learner, params, x)

    def steps(self, condition: Condition) -> int:
        """Return the steps of the inner loop under a condition."""
        return self.inner_steps if condition.steps is None else condition.steps

    def adapt(
        self, condition: Condition, tasks: Tasks, start: tuple[int, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Return the parameters of a condition.

        Args:
            condition: one that adapts.
            tasks: have the episode that it adapts to.
            start: steps that were taken already, as the condition takes them, and the parameters after them.

        Raises:
            ValueError: the tasks have no episode to adapt to for its protocol.
        """
        if condition.task not in tasks.adapted:
            raise ValueError(f"{condition.task} needs an episode to adapt to")
        episode = tasks.adapted[condition.task]
        taken, params = start
        return adapt(
            self.engine,
            self.learner,
            params,
            self.inner_lr if condition.rates == LEARNED else self.edits[condition.rates],
            (episode.support_x, episode.support_y),
            steps=self.steps(condition) - taken,
            norm_matched=condition.rates == NORM_MATCHED,
            first_step=taken,
        )


@dataclass(frozen=True)
class View:
    """What the body makes of one episode; computed when it is first asked for, and once.

    Attributes:
        seeing: the model.
        params: its parameters under the condition.
        episode: the judged episode.
        batch_stats: whether support and query are normalised apart or together.
        layered: whether the layers are looked at too, so that the features are taken from them.
    """

    seeing: Seeing
    params: Mapping[str, Tensor]
    episode: Episode
    batch_stats: BatchStats
    layered: bool = False

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """The features of support (N*K, D) and query (N*Q, D)."""
        if self.layered:
            *_, (support, query) = self.activations.values()
            return _comparable((support.flatten(1), query.flatten(1)), self.params)
        features = episode_features(
            lambda x: self.seeing.features(self.params, x), self.episode, batch_stats=self.batch_stats
        )
        return _comparable(features, self.params)

    @cached_property
    def activations(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The outputs of support and query by layer, each (n, ...), the features last."""
        return episode_activations(
            lambda x: self.seeing.activations(self.params, x), self.episode, batch_stats=self.batch_stats
        )

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The identities of the query images."""
        return identities(self.episode.query_x)


Reading = Callable[[View, View], float]
"""Takes a number of a condition's view; the second view is that of the meta-initialisation.

One that looks at a layer has its name as the attribute `layer`.
"""


@torch.no_grad()
def read_episode(
    subject: Subject,
    tasks: Tasks,
    asked: Mapping[Condition, Mapping[str, Reading]],
    *,
    batch_stats: BatchStats,
) -> dict[Condition, dict[str, float]]:
    """Return every reading, by name, of one episode under every condition.

    Args:
        subject: the model.
        tasks: the judged episode, and those that are adapted to.
        asked: what is taken of each condition's view. Each condition is adapted to once; of conditions that differ in
            their number of steps alone, one goes on where an earlier one with fewer steps ended.
        batch_stats: whether support and query are normalised apart or together.

    Raises:
        ValueError: a condition adapts to an episode that the tasks lack.
        DivergedError: features are not finite, or too large to be compared.
    """
    before = see(subject, subject.params, tasks.judged, asked.values(), batch_stats)
    reached: dict[Condition, tuple[int, Mapping[str, Tensor]]] = {}
    outcome = {}
    for condition, readings in asked.items():
        view = before
        if condition != META_INIT:
            path, steps = replace(condition, steps=None), subject.steps(condition)
            start = reached.get(path, (0, subject.params))
            params = subject.adapt(condition, tasks, start if start[0] <= steps else (0, subject.params))
            reached[path] = steps, params
            view = see(subject, params, tasks.judged, [readings], batch_stats)
        try:
            outcome[condition] = {name: reading(view, before) for name, reading in readings.items()}
        except DivergedError as error:
            raise DivergedError(f"{_named(condition)}: {error.message}", hint=error.hint) from error
    return outcome


def _named(condition: Condition) -> str:
    return condition.protocol if condition == META_INIT else f"{condition.protocol} with {condition.rates} rates"


def _comparable(features: tuple[Tensor, Tensor], params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    # Of what is not finite every neighbour would be the first: an accuracy of exactly 1/N. Parameters whose square
    # overflows make variances infinite, and so all features equal.
    if not bool(torch.stack([value.square().sum() for value in (*features, *params.values())]).isfinite().all()):
        raise DivergedError(
            "parameters or features are not finite, or so large that they overflow",
            hint="take smaller --rates or fewer --inner-steps",
        )
    return features


def see(
    seeing: Seeing,
    params: Mapping[str, Tensor],
    episode: Episode,
    readings: Iterable[Mapping[str, Reading]],
    batch_stats: BatchStats,
) -> View:
    """Return the view of an episode that the readings are taken of."""
    layered = any(getattr(reading, "layer", None) for some in readings for reading in some.values())
    return View(seeing, params, episode, batch_stats, layered)
