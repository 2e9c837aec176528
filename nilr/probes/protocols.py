"""The three conditions of Starshak (Negative Inner-Loop Learning Rates Learn Universal Features, 2022).

All of them judge the same episodes by labelled neighbours in feature space; they differ in the parameters that make
the features: `meta-init`, before any adaptation; `same-task`, adapted to the judged episode's own support;
`cross-task`, adapted to the support of an independent episode A and judged on another, B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nilr.episodes import Episode, EpisodeSampler
from nilr.meta.engine.contract import Engine
from nilr.metrics import accuracy
from nilr.models.learner import Learner
from nilr.probes.features import episode_features
from nilr.probes.neighbours import RULES, Distance

Protocol = Literal["meta-init", "same-task", "cross-task"]


@dataclass(frozen=True)
class Subject:
    """A model under the probe.

    Attributes:
        learner: body and head.
        params: its meta-initialisation, by name.
        inner_lr: its inner rates, by name.
        inner_steps: steps of the inner loop.
        engine: what executes it.
    """

    learner: Learner
    params: Mapping[str, Tensor]
    inner_lr: Mapping[str, Tensor]
    inner_steps: int
    engine: Engine

    def adapt(self, episode: Episode) -> Mapping[str, Tensor]:
        """Return the parameters adapted to the episode's support."""
        return self.engine.adapt(
            self.learner,
            self.params,
            self.inner_lr,
            episode.support_x,
            episode.support_y,
            steps=self.inner_steps,
        )


@dataclass(frozen=True)
class Judge:
    """How features are judged.

    Attributes:
        neighbours: a name in `RULES`.
        distance: how near is measured.
        batch_stats: whether support and query are normalised apart or together.
    """

    neighbours: str
    distance: Distance
    batch_stats: Literal["apart", "together"]

    def accuracy(self, subject: Subject, params: Mapping[str, Tensor], episode: Episode) -> float:
        """Return the share of the episode's queries that its labelled neighbours classify rightly."""
        features = episode_features(subject.engine, subject.learner, params, episode, batch_stats=self.batch_stats)
        return self.of_features(*features, episode)

    def of_features(self, support: Tensor, query: Tensor, episode: Episode) -> float:
        """Return the same for features that are given: (N*K, D) and (N*Q, D)."""
        n_way = int(episode.support_y.max()) + 1
        scores = RULES[self.neighbours](query, support, episode.support_y, n_way, self.distance)
        return accuracy(scores, episode.query_y).item()


@dataclass(frozen=True)
class TaskPairs:
    """Draws the judged episodes B and, for cross-task, the independent episodes A.

    Attributes:
        judged: gives episode B.
        adapted: gives episode A from a stream of its own.
        task_b: "disjoint", A shares no class with B; "any", both are drawn freely.
    """

    judged: EpisodeSampler
    adapted: EpisodeSampler
    task_b: Literal["disjoint", "any"]

    def draw(self, index: int, *, cross: bool) -> tuple[Episode, Episode | None]:
        """Return episode B number `index` and, if `cross`, its episode A."""
        classes, images = self.judged.choose([index])
        episode_b = self.judged.load(classes, images)[0]
        if not cross:
            return episode_b, None
        avoid = classes if self.task_b == "disjoint" else None
        return episode_b, self.adapted.load(*self.adapted.choose([index], avoid=avoid))[0]


@torch.no_grad()
def judge_episode(
    subject: Subject, judge: Judge, episode_b: Episode, episode_a: Episode | None, protocols: Sequence[Protocol]
) -> dict[Protocol, float]:
    """Return the accuracy on episode B under each protocol.

    Args:
        subject: the model.
        judge: how features are judged.
        episode_b: the judged episode.
        episode_a: the episode that cross-task adapts to; needed for that protocol alone.
        protocols: which conditions.
    """
    params: Mapping[str, Tensor]
    outcome: dict[Protocol, float] = {}
    for protocol in protocols:
        if protocol == "meta-init":
            params = subject.params
        elif protocol == "same-task":
            params = subject.adapt(episode_b)
        elif episode_a is not None:
            params = subject.adapt(episode_a)
        else:
            raise ValueError("cross-task needs an episode to adapt to")
        outcome[protocol] = judge.accuracy(subject, params, episode_b)
    return outcome
