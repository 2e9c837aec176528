"""The three protocols of Starshak (Negative Inner-Loop Learning Rates Learn Universal Features, 2022).

All of them judge the same episodes by labelled neighbours in feature space; they differ in the parameters that make
the features: `meta-init`, before any adaptation; `same-task`, adapted to the judged episode's own support;
`cross-task`, adapted to the support of an independent episode A and judged on another, B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nilr.episodes import EpisodeSampler
from nilr.metrics import accuracy
from nilr.probes.conditions import Tasks, View
from nilr.probes.neighbours import RULES, Distance


@dataclass(frozen=True)
class NeighbourAccuracy:
    """A reading: the share of the judged queries that their labelled neighbours classify rightly.

    Attributes:
        neighbours: a name in `RULES`.
        distance: how near is measured.
    """

    neighbours: str
    distance: Distance

    def __call__(self, view: View, _before: View) -> float:
        """Return the accuracy on the view's episode."""
        support, query = view.features
        labels = view.episode.support_y
        n_way = int(labels.max()) + 1
        scores = RULES[self.neighbours](query, support, labels, n_way, self.distance)
        return accuracy(scores, view.episode.query_y).item()


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

    def draw(self, index: int, *, cross: bool) -> Tasks:
        """Return episode B number `index` and, if `cross`, its episode A."""
        classes, images = self.judged.choose([index])
        episode_b = self.judged.load(classes, images)[0]
        if not cross:
            return Tasks(episode_b, {"same-task": episode_b})
        avoid = classes if self.task_b == "disjoint" else None
        episode_a = self.adapted.load(*self.adapted.choose([index], avoid=avoid))[0]
        return Tasks(episode_b, {"same-task": episode_b, "cross-task": episode_a})
