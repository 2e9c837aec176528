"""The three protocols of Starshak (Negative Inner-Loop Learning Rates Learn Universal Features, 2022).

All of them judge the same episodes by labelled neighbours in feature space; they differ in the parameters that make
the features: `meta-init`, before any adaptation; `same-task`, adapted to the judged episode's own support;
`cross-task`, adapted to the support of an independent episode A and judged on another, B.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from nilr.episodes import Episode, EpisodeSampler
from nilr.metrics import accuracy
from nilr.probes.conditions import Tasks, View, shared_task
from nilr.probes.neighbours import RULES, Distance
from nilr.probes.similarity import MEASURES, Activations

Chosen = tuple[Tensor, Tensor]
"""Classes (1, N) and images (1, N, n) of an episode, as positions in the split."""


@dataclass(frozen=True)
class NeighbourAccuracy:
    """A reading: the share of the judged queries that their labelled neighbours classify rightly.

    Attributes:
        neighbours: a name in `RULES`.
        distance: how near is measured.
        layer: judge its flattened output; None: the features.
    """

    neighbours: str
    distance: Distance
    layer: str | None = None

    def __call__(self, view: View, _before: View) -> float:
        """Return the accuracy on the view's episode."""
        support, query = view.features
        if self.layer is not None:
            support, query = (values.flatten(1) for values in view.activations[self.layer])
        labels = view.episode.support_y
        n_way = int(labels.max()) + 1
        scores = RULES[self.neighbours](query, support, labels, n_way, self.distance)
        return accuracy(scores, view.episode.query_y).item()


@dataclass(frozen=True)
class HeadAccuracy:
    """A reading: the share of the judged queries that the model's own head classifies rightly."""

    def __call__(self, view: View, _before: View) -> float:
        """Return the accuracy on the view's episode."""
        _, query = view.features
        logits = linear(query, view.params["head.weight"], view.params["head.bias"])
        return accuracy(logits, view.episode.query_y).item()


@dataclass(frozen=True)
class Similarity:
    """A reading: how alike the query images' outputs of a layer are before and after, or among themselves.

    Attributes:
        layer: its name.
        measure: a name in `nilr.probes.similarity.MEASURES`.
    """

    layer: str
    measure: str

    def __call__(self, view: View, before: View) -> float:
        """Return the measure on the view's query images; NaN where it is undefined."""
        return MEASURES[self.measure](self._of(before), self._of(view))

    def _of(self, view: View) -> Activations:
        _, query = view.activations[self.layer]
        return Activations(query, view.images, view.episode.query_y)


@dataclass(frozen=True)
class TaskPairs:
    """Draws the judged episodes B and, for cross-task, the independent episodes A.

    Attributes:
        judged: gives episode B.
        adapted: gives episode A from a stream of its own.
        task_b: "disjoint", A shares no class with B; "any", both are drawn freely; "same-classes", A shows new images
            of B's classes.
    """

    judged: EpisodeSampler
    adapted: EpisodeSampler
    task_b: Literal["disjoint", "any", "same-classes"]

    def draw(self, index: int, *, cross: bool, shared: Iterable[int] = ()) -> Tasks:
        """Return episode B number `index` and the episodes A that are asked for.

        Args:
            index: number of the episode.
            cross: draw the episode A of `cross-task`.
            shared: draw an episode A that shares so many classes with B, for each of these numbers. The more it shares,
                the more of its classes are B's, at B's places; all others stay, and so do all images of a class.
        """
        b = self.judged.choose([index])
        episode_b = self.judged.load(*b)[0]
        adapted = {"same-task": episode_b}
        if cross:
            adapted["cross-task"] = self._load(self._cross(index, b))
        for n in shared:
            adapted[shared_task(n)] = self._load(self._sharing(index, b, n))
        return Tasks(episode_b, adapted)

    def _cross(self, index: int, b: Chosen) -> Chosen:
        if self.task_b == "any":
            return self.adapted.choose([index])
        return self._sharing(index, b, 0 if self.task_b == "disjoint" else self.judged.n_way)

    def _sharing(self, index: int, b: Chosen, shared: int) -> Chosen:
        """Return an A whose first classes are B's first ones, with new images, and whose others are not in B."""
        classes, images = b
        if shared == 0:
            return self.adapted.choose([index], avoid=classes)
        new = self.adapted.choose_images([index], classes, avoid=images)
        if shared == self.judged.n_way:
            return classes, new
        others, of_others = self.adapted.choose([index], avoid=classes)
        return (
            torch.cat([classes[:, :shared], others[:, shared:]], 1),
            torch.cat([new[:, :shared], of_others[:, shared:]], 1),
        )

    def _load(self, chosen: Chosen) -> Episode:
        return self.adapted.load(*chosen)[0]
