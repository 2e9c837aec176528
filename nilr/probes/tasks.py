"""The episodes that a probe evaluates on and adapts to, as in Starshak (2022).

Episode B is evaluated. Under `same-task` the model adapts to B's own support set; under `cross-task` it adapts to the
support set of an independent episode A.

Starshak: Negative Inner-Loop Learning Rates Learn Universal Features, 2022.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nilr.episodes import Episode, EpisodeSampler, stream_seed

Choice = tuple[Tensor, Tensor]
"""Classes (1, N) and images (1, N, n) of an episode, as positions in the split."""


Permutation = tuple[int, ...]
"""The label of each class during adaptation."""


class Task(NamedTuple):
    """What a model adapts to: B under `same-task`, A under `cross-task`."""

    protocol: str  # `same-task` or `cross-task`
    shared: int | None = None  # number of classes that A and B have in common; None: as `TaskPairs.task_b` says


def draw_permutations(n_way: int, count: int, seed: int) -> list[Permutation]:
    """Return at most `count` different permutations of the labels of `n_way` classes, the identity first.

    The classes of each episode are in random order, so the same permutations serve all episodes.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, "permutations"))
    found = {tuple(range(n_way)): None}
    while len(found) < min(count, math.factorial(n_way)):
        found[tuple(torch.randperm(n_way, generator=generator).tolist())] = None
    return list(found)


@dataclass(frozen=True)
class Tasks:
    """The evaluated episode B, and the episodes that a model adapts to."""

    judged: Episode
    adapted: Mapping[Task, Episode]
    index: int = 0  # their number


@dataclass(frozen=True)
class TaskPairs:
    """Draws the evaluated episodes B and the independent episodes A."""

    judged: EpisodeSampler  # draws episode B
    adapted: EpisodeSampler  # draws episode A from a random stream of its own
    # "disjoint", A and B have no class in common; "any", both are drawn freely; "same-classes", A has B's classes
    # with other images
    task_b: Literal["disjoint", "any", "same-classes"]

    def draw(self, index: int, tasks: Iterable[Task]) -> Tasks:
        """Return episode B number `index`, and the episodes of the tasks."""
        b = self.judged.choose([index])
        judged = self.judged.load(*b)[0]
        adapted = {}
        for task in tasks:
            of_a = task.protocol == "cross-task"
            adapted[task] = self.adapted.load(*self._choose(index, b, task.shared))[0] if of_a else judged
        return Tasks(judged, adapted, index)

    def _choose(self, index: int, b: Choice, shared: int | None) -> Choice:
        """Choose A: B's first `shared` classes with other images, then classes that are not in B.

        The latter, and all images of a class, are the same for every `shared`.
        """
        classes, images = b
        if shared is None:
            if self.task_b == "any":
                return self.adapted.choose([index])
            shared = 0 if self.task_b == "disjoint" else self.judged.n_way
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
