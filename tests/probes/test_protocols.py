"""The three protocols on a stand-in engine whose adaptation is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.errors import EpisodeError
from nilr.probes.conditions import Condition, Subject, Tasks, read_episode
from nilr.probes.protocols import NeighbourAccuracy, TaskPairs

NEAREST = NeighbourAccuracy("nearest", "euclidean")


class ShiftEngine:
    """Features are the first pixel times `seen`; adapting sets `seen` to the support's first pixel."""

    name = "shift"

    def adapt(self, learner, params, inner_lr, support_x, support_y, *, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return {"seen": support_x.flatten()[0]}

    def features(self, learner, params, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        values = x.flatten(1)[:, :1]
        return values * params["seen"]


def episode(support: list[float], query: list[float]) -> Episode:
    def images(values: list[float]) -> Tensor:
        return torch.tensor(values)[:, None, None, None].expand(-1, 3, 1, 1)

    return Episode(images(support), torch.arange(2), images(query), torch.arange(2))


def subject() -> Subject:
    return Subject(None, {"seen": torch.tensor(0.0)}, {}, 1, ShiftEngine())  # type: ignore[arg-type]


def judged(episode_b: Episode, episode_a: Episode | None, protocols: tuple[str, ...]) -> dict[str, float]:
    tasks = Tasks(episode_b, {"same-task": episode_b} | ({"cross-task": episode_a} if episode_a else {}))
    conditions = [Condition(protocol) for protocol in protocols]
    outcome = read_episode(subject(), tasks, conditions, {"accuracy": NEAREST}, batch_stats="apart")
    return {condition.protocol: values["accuracy"] for condition, values in outcome.items()}


def test_each_protocol_adapts_to_its_own_episode() -> None:
    # features are multiplied by the first support pixel of the episode adapted to: by 0 before adaptation, where all
    # points coincide and every query goes to class 0 (half right); by 0.2 after B and 0.7 after A, where all are right
    episode_b = episode([0.2, 0.8], [0.3, 0.7])
    episode_a = episode([0.7, 0.1], [0.5, 0.5])
    protocols = ("meta-init", "same-task", "cross-task")
    outcome = judged(episode_b, episode_a, protocols)
    assert outcome == {"meta-init": 0.5, "same-task": 1.0, "cross-task": 1.0}


def test_cross_task_judges_b_with_what_a_taught() -> None:
    # adapted to an A whose first support pixel is 0, all features coincide: half of B's queries are right
    episode_b = episode([0.2, 0.8], [0.3, 0.7])
    blind = episode([0.0, 0.1], [0.5, 0.5])
    outcome = judged(episode_b, blind, ("same-task", "cross-task"))
    assert outcome == {"same-task": 1.0, "cross-task": 0.5}


def test_cross_task_without_an_episode_a_is_an_error() -> None:
    with pytest.raises(ValueError, match="cross-task"):
        judged(episode([0.1, 0.2], [0.1, 0.2]), None, ("cross-task",))


def pairs(task_b: str, *, n_way: int = 4) -> TaskPairs:
    """Return pairs over 8 classes of 4 images whose red channel is the class."""
    red = torch.arange(8, dtype=torch.uint8).repeat_interleave(4)[:, None, None, None].expand(-1, 1, 1, 3)
    images = PackedImages(red.contiguous(), (4,) * 8)
    samplers = [EpisodeSampler(images, n_way, 1, 2, 0, stream) for stream in ("test", "test/task-a")]
    return TaskPairs(samplers[0], samplers[1], task_b)  # type: ignore[arg-type]


def classes(drawn: Episode) -> set[int]:
    return {round(value * 255) for value in drawn.support_x[:, 0, 0, 0].tolist()}


def test_disjoint_tasks_share_no_class_and_free_ones_sometimes_do() -> None:
    disjoint = [pairs("disjoint").draw(i, cross=True) for i in range(100)]
    assert all(not classes(t.judged) & classes(t.adapted["cross-task"]) for t in disjoint)
    free = [pairs("any").draw(i, cross=True) for i in range(100)]
    assert any(classes(t.judged) & classes(t.adapted["cross-task"]) for t in free)


def test_the_judged_episode_does_not_depend_on_the_protocols_or_on_task_b() -> None:
    alone = pairs("any").draw(5, cross=False)
    beside = pairs("disjoint").draw(5, cross=True)
    assert set(alone.adapted) == {"same-task"}
    assert torch.equal(alone.judged.query_x, beside.judged.query_x)


def test_too_few_classes_for_disjoint_tasks_are_named() -> None:
    with pytest.raises(EpisodeError, match="needs 10 classes, and `test/task-a` has 8"):
        pairs("disjoint", n_way=5).draw(0, cross=True)
