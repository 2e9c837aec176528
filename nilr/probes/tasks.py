"""The episodes that a probe evaluates on and adapts to, as in Starshak (2022).

Episode B is evaluated. Under `same-task` the model adapts to B's own support set; under `cross-task` it adapts to the
support set of an independent episode A.

Starshak: Negative Inner-Loop Learning Rates Learn Universal Features, 2022.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nilr.episodes import Episode, EpisodeSampler, PackedImages, stream_seed

TaskB = Literal["disjoint", "any", "same-classes"]

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
    task_b: TaskB

    @staticmethod
    def of(
        judged: PackedImages,
        adapted: PackedImages,
        task_b: TaskB,
        *,
        n_way: int,
        n_shot: int,
        n_query: int,
        seed: int,
        split: str,
    ) -> "TaskPairs":
        """Return the pairs of a probe: B drawn from `judged`, A from `adapted`."""
        b = EpisodeSampler(judged, n_way, n_shot, n_query, seed, split)
        # Nothing is evaluated on A, so it has no queries.
        return TaskPairs(b, EpisodeSampler(adapted, n_way, n_shot, 0, seed, f"{split}/task-a"), task_b)

    def draw(self, index: int, tasks: Iterable[Task]) -> Tasks:
        """Return episode B number `index`, and the episodes of the tasks."""
        b = self.judged.choose([index])
        judged = self.judged.load(*b)[0]
        adapted = {}
        for task in tasks:
            of_a = task.protocol == "cross-task"
            adapted[task] = self.adapted.load(*self._choose(index, b, task.shared))[0] if of_a else judged
        return Tasks(judged, adapted, index)

    def classes(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the classes of the episodes B, and of the episodes A of `cross-task`, each int64 (E, N)."""
        b, _ = self.judged.choose(indices)
        if self.task_b == "same-classes":
            return b, b
        return b, self.adapted.choose(indices, avoid=b if self.task_b == "disjoint" else None)[0]

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


def episode_classes(
    n_episodes: int, *, n_classes: int, n_way: int, seed: int, split: str, task_b: TaskB
) -> tuple[Tensor, Tensor]:
    """Draw again the classes of a probe's episodes B and A, each int64 (E, N), without the images.

    Classes do not depend on the images.
    """
    images = PackedImages(torch.empty(0), (1,) * n_classes)
    pairs = TaskPairs.of(images, images, task_b, n_way=n_way, n_shot=1, n_query=0, seed=seed, split=split)
    return pairs.classes(range(n_episodes))
