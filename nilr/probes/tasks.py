"""The episodes that a probe evaluates on and adapts to, as in Starshak (2022).

Episode B is evaluated. Under `same-task` the model adapts to B's own support set; under `cross-task` it adapts to the
support set of an independent episode A.

Starshak: Negative Inner-Loop Learning Rates Learn Universal Features, 2022.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nilr.episodes import Episode, EpisodeSampler

Choice = tuple[Tensor, Tensor]
"""Classes (1, N) and images (1, N, n) of an episode, as positions in the split."""


@dataclass(frozen=True)
class Tasks:
    """The evaluated episode B, and by task the episodes that a model adapts to."""

    judged: Episode
    adapted: Mapping[str, Episode]


def shared_task(shared: int) -> str:
    """Return the name of the task whose episode A has `shared` classes in common with B."""
    return f"cross-task, {shared} shared"


@dataclass(frozen=True)
class TaskPairs:
    """Draws the evaluated episodes B and the independent episodes A.

    Attributes:
        judged: draws episode B.
        adapted: draws episode A from a random stream of its own.
        task_b: "disjoint", A and B have no class in common; "any", both are drawn freely; "same-classes", A has B's
            classes with other images.
    """

    judged: EpisodeSampler
    adapted: EpisodeSampler
    task_b: Literal["disjoint", "any", "same-classes"]

    def draw(self, index: int, *, cross: bool, shared: Iterable[int] = ()) -> Tasks:
        """Return episode B number `index` with the requested episodes A.

        Args:
            index: number of the episode.
            cross: whether to draw the episode A of `cross-task`.
            shared: numbers of common classes, with an episode A for each. The common classes come first, in B's order;
                the other classes and all images of a class are the same whatever the number.
        """
        b = self.judged.choose([index])
        episode_b = self.judged.load(*b)[0]
        adapted = {"same-task": episode_b}
        if cross:
            adapted["cross-task"] = self._load(self._choose_cross(index, b))
        for n in shared:
            adapted[shared_task(n)] = self._load(self._choose_sharing(index, b, n))
        return Tasks(episode_b, adapted)

    def _choose_cross(self, index: int, b: Choice) -> Choice:
        if self.task_b == "any":
            return self.adapted.choose([index])
        return self._choose_sharing(index, b, 0 if self.task_b == "disjoint" else self.judged.n_way)

    def _choose_sharing(self, index: int, b: Choice, shared: int) -> Choice:
        """Choose B's first `shared` classes with other images, and then classes that are not in B."""
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

    def _load(self, choice: Choice) -> Episode:
        return self.adapted.load(*choice)[0]
