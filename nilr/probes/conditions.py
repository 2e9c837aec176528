"""Conditions and readings: each condition's parameters and features are computed once, however much is read of them.

A condition says how the parameters that see the judged episode come about. A view is what the body makes of that
episode under one condition. A reading is a number that is taken of a view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.meta.engine.contract import Engine
from nilr.models.learner import Learner
from nilr.probes.edits import LEARNED, NORM_MATCHED, adapt
from nilr.probes.features import BatchStats, episode_features


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

    def adapt(self, condition: Condition, tasks: Tasks) -> Mapping[str, Tensor]:
        """Return the parameters of a condition.

        Raises:
            ValueError: the tasks have no episode to adapt to for its protocol.
        """
        if condition.protocol == META_INIT.protocol:
            return self.params
        if condition.task not in tasks.adapted:
            raise ValueError(f"{condition.task} needs an episode to adapt to")
        episode = tasks.adapted[condition.task]
        return adapt(
            self.engine,
            self.learner,
            self.params,
            self.inner_lr if condition.rates == LEARNED else self.edits[condition.rates],
            (episode.support_x, episode.support_y),
            steps=self.inner_steps,
            norm_matched=condition.rates == NORM_MATCHED,
        )


@dataclass(frozen=True)
class View:
    """What the body makes of one episode; computed when it is first asked for, and once.

    Attributes:
        seeing: the model.
        params: its parameters under the condition.
        episode: the judged episode.
        batch_stats: whether support and query are normalised apart or together.
    """

    seeing: Seeing
    params: Mapping[str, Tensor]
    episode: Episode
    batch_stats: BatchStats

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """The features of support (N*K, D) and query (N*Q, D)."""
        return episode_features(
            lambda x: self.seeing.features(self.params, x), self.episode, batch_stats=self.batch_stats
        )


Reading = Callable[[View, View], float]
"""Takes a number of a condition's view; the second view is that of the meta-initialisation."""


@torch.no_grad()
def read_episode(
    subject: Subject,
    tasks: Tasks,
    conditions: Iterable[Condition],
    readings: Mapping[str, Reading],
    *,
    batch_stats: BatchStats,
) -> dict[Condition, dict[str, float]]:
    """Return every reading, by name, of one episode under every condition.

    Args:
        subject: the model.
        tasks: the judged episode, and those that are adapted to.
        conditions: each is adapted to once.
        readings: what is taken of each condition's view.
        batch_stats: whether support and query are normalised apart or together.

    Raises:
        ValueError: a condition adapts to an episode that the tasks lack.
    """
    before = View(subject, subject.params, tasks.judged, batch_stats)
    outcome = {}
    for condition in conditions:
        unadapted = condition.protocol == META_INIT.protocol
        view = before if unadapted else View(subject, subject.adapt(condition, tasks), tasks.judged, batch_stats)
        outcome[condition] = {name: reading(view, before) for name, reading in readings.items()}
    return outcome
