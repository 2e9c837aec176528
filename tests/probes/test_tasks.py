"""Protocols and episodes A, on a stand-in engine whose adaptation is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.errors import EpisodeError
from nilr.probes.conditions import Condition, Quantity, Subject, read_episode
from nilr.probes.readings import NeighbourAccuracy
from nilr.probes.tasks import Task, TaskPairs, Tasks, episode_classes

SAME, CROSS = Task("same-task"), Task("cross-task")
NEAREST = NeighbourAccuracy("nearest", "euclidean")


class ShiftEngine:
    """Features are the first pixel times `seen`; adapting sets `seen` to the support's first pixel."""

    name = "shift"

    def adapt(self, params, inner_lr, support_x, support_y, *, steps, first_step=0):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return {"seen": support_x.flatten()[0]}

    def features(self, params, x: Tensor, statistics=None) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        values = x.flatten(1)[:, :1]
        return values * params["seen"]


def episode(support: list[float], query: list[float]) -> Episode:
    def images(values: list[float]) -> Tensor:
        return torch.tensor(values)[:, None, None, None].expand(-1, 3, 1, 1)

    return Episode(images(support), torch.arange(2), images(query), torch.arange(2))


def subject() -> Subject:
    return Subject({"seen": torch.tensor(0.0)}, {"seen": torch.tensor(1.0)}, 1, ShiftEngine())  # type: ignore[arg-type]


def judged(episode_b: Episode, episode_a: Episode | None, protocols: tuple[str, ...]) -> dict[str, float]:
    tasks = Tasks(episode_b, {SAME: episode_b} | ({CROSS: episode_a} if episode_a else {}))
    quantities = [Quantity(Condition(protocol), NEAREST) for protocol in protocols]
    values = read_episode(subject(), tasks, quantities)
    return {quantity.condition.protocol: value for quantity, value in values.items()}


def test_each_protocol_adapts_to_its_own_episode() -> None:
    # features are multiplied by the first support pixel of the episode adapted to: by 0 before adaptation, where all
    # points coincide and every query goes to class 0 (half right); by 0.2 after B and 0.7 after A, where all are right
    episode_b = episode([0.2, 0.8], [0.3, 0.7])
    episode_a = episode([0.7, 0.1], [0.5, 0.5])
    protocols = ("meta-init", "same-task", "cross-task")
    outcome = judged(episode_b, episode_a, protocols)
    assert outcome == {"meta-init": 0.5, "same-task": 1.0, "cross-task": 1.0}


def test_cross_task_adapts_to_a_and_evaluates_on_b() -> None:
    # adapted to an A whose first support pixel is 0, all features coincide: half of B's queries are right
    episode_b = episode([0.2, 0.8], [0.3, 0.7])
    blind = episode([0.0, 0.1], [0.5, 0.5])
    outcome = judged(episode_b, blind, ("same-task", "cross-task"))
    assert outcome == {"same-task": 1.0, "cross-task": 0.5}


def test_cross_task_without_an_episode_a_is_an_error() -> None:
    with pytest.raises(ValueError, match="cross-task"):
        judged(episode([0.1, 0.2], [0.1, 0.2]), None, ("cross-task",))


def pairs(task_b: str, *, n_way: int = 4, n_classes: int = 8) -> TaskPairs:
    """Return pairs over classes of 4 images whose red channel is the class and whose green one is the image."""
    red = torch.arange(n_classes, dtype=torch.uint8).repeat_interleave(4)
    green = torch.arange(4, dtype=torch.uint8).repeat(n_classes)
    pixels = torch.stack([red, green, torch.zeros_like(red)], 1)[:, None, None, :]
    images = PackedImages(pixels.contiguous(), (4,) * n_classes)
    return TaskPairs(
        EpisodeSampler(images, n_way, 1, 2, 0, "test"),
        EpisodeSampler(images, n_way, 1, 0, 0, "test/task-a"),
        task_b,  # type: ignore[arg-type]
    )


def pixels(x: Tensor) -> list[tuple[int, int]]:
    """Return class and number of each image."""
    return [(round(255 * float(c)), round(255 * float(i))) for c, i in x[:, :2, 0, 0]]


def classes(drawn: Episode) -> set[int]:
    return {round(value * 255) for value in drawn.support_x[:, 0, 0, 0].tolist()}


def test_disjoint_tasks_share_no_class_and_free_ones_sometimes_do() -> None:
    disjoint = [pairs("disjoint").draw(i, [CROSS]) for i in range(100)]
    assert all(not classes(t.judged) & classes(t.adapted[CROSS]) for t in disjoint)
    free = [pairs("any").draw(i, [CROSS]) for i in range(100)]
    assert any(classes(t.judged) & classes(t.adapted[CROSS]) for t in free)


def test_the_judged_episode_does_not_depend_on_the_protocols_or_on_task_b() -> None:
    alone = pairs("any").draw(5, [SAME])
    beside = pairs("disjoint").draw(5, [CROSS])
    assert set(alone.adapted) == {SAME}
    assert torch.equal(alone.judged.query_x, beside.judged.query_x)


def test_too_few_classes_for_disjoint_tasks_are_named() -> None:
    with pytest.raises(EpisodeError, match="needs 10 classes, but `test` has 8"):
        pairs("disjoint", n_way=5).draw(0, [CROSS])


def test_tasks_of_the_same_classes_share_their_labels_and_no_image() -> None:
    # 4 classes in all: no disjoint task could be drawn; 4 images each: 3 of B and the one that is left
    same = pairs("same-classes", n_classes=4)
    for i in range(50):
        tasks = same.draw(i, [CROSS])
        a, b = tasks.adapted[CROSS], tasks.judged
        of_a = pixels(a.support_x)
        assert [c for c, _ in of_a] == [c for c, _ in pixels(b.support_x)]
        assert not set(of_a) & {*pixels(b.support_x), *pixels(b.query_x)}


def test_episodes_a_with_more_shared_classes_differ_only_in_these() -> None:
    drawn = [pairs("disjoint").draw(i, [CROSS, *(Task("cross-task", n) for n in range(5))]) for i in range(50)]
    for tasks in drawn:
        b = classes(tasks.judged)
        supports = [pixels(tasks.adapted[Task("cross-task", n)].support_x) for n in range(5)]
        for n, support in enumerate(supports):
            assert len({c for c, _ in support} & b) == n
            assert support == supports[4][:n] + supports[0][n:]
        assert supports[0] == pixels(tasks.adapted[CROSS].support_x)
    fully = [pairs("same-classes").draw(i, [CROSS]) for i in range(50)]
    for tasks, same in zip(drawn, fully, strict=True):
        assert torch.equal(tasks.adapted[Task("cross-task", 4)].support_x, same.adapted[CROSS].support_x)


def test_the_queries_of_episode_a_do_not_change_its_support() -> None:
    lean = pairs("disjoint")
    full = TaskPairs(lean.judged, replace(lean.adapted, n_query=2), "disjoint")
    a, b = (drawn.draw(3, [CROSS]).adapted[CROSS] for drawn in (lean, full))
    assert torch.equal(a.support_x, b.support_x)
    assert len(a.query_x) == 0


@pytest.mark.parametrize("task_b", ["disjoint", "any", "same-classes"])
def test_the_classes_of_a_probe_s_episodes_are_drawn_again_without_their_images(task_b: str) -> None:
    of_b, of_a = episode_classes(9, n_classes=8, n_way=4, seed=0, split="test", task_b=task_b)  # type: ignore[arg-type]
    for i in range(9):
        drawn = pairs(task_b).draw(i, [SAME, CROSS])
        assert set(of_b[i].tolist()) == classes(drawn.judged)
        assert set(of_a[i].tolist()) == classes(drawn.adapted[CROSS])
