"""Each condition is computed once, on a stand-in engine that counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.probes.conditions import META_INIT, Condition, Quantity, Subject, View, read_episode
from nilr.probes.readings import NeighbourAccuracy, Similarity
from nilr.probes.tasks import Task, Tasks


class CountingEngine:
    """Adapting adds the support's first pixel to `at`; features are `at` times the images."""

    name = "counting"

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def adapt(self, params, inner_lr, support_x, support_y, *, steps, first_step=0):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        self.calls["adapt"] += 1
        self.calls["steps"] += steps
        return {"at": params["at"] + steps * support_x.flatten()[0]}

    def features(self, params, x: Tensor, statistics=None) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        self.calls["features"] += 1
        return params["at"] * x.flatten(1)

    def activations(self, params, x: Tensor, statistics=None) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        self.calls["activations"] += 1
        return {"pixels": x, "features": params["at"] * x}


def tasks() -> Tasks:
    x = torch.tensor([0.25, 0.5])[:, None, None, None].expand(-1, 3, 1, 1)
    b = Episode(x, torch.arange(2), x, torch.arange(2))
    return Tasks(b, {Task("same-task"): b, Task("cross-task"): replace(b, support_x=2 * x)})


def largest(view: View, _before: View) -> float:
    return view.features[1].max().item()


CONDITIONS = [META_INIT, Condition("same-task"), Condition("cross-task")]


def test_features_are_computed_once_per_condition_whatever_is_read() -> None:
    engine = CountingEngine()
    subject = Subject({"at": torch.tensor(1.0)}, {"at": torch.tensor(1.0)}, 1, engine)  # type: ignore[arg-type]

    def moved(view: View, before: View) -> float:
        return (view.features[1] - before.features[1]).max().item()

    quantities = [Quantity(condition, reading) for condition in CONDITIONS for reading in (largest, largest, moved)]
    values = read_episode(subject, tasks(), quantities)
    # `at` is 1, then 1 + 0.25 and 1 + 0.5; the largest pixel is 0.5
    assert [values[Quantity(condition, largest)] for condition in CONDITIONS] == [0.5, 0.625, 0.75]
    assert [values[Quantity(condition, moved)] for condition in CONDITIONS] == [0.0, 0.125, 0.25]
    # support and query of three conditions; two adaptations
    assert engine.calls == {"features": 6, "adapt": 2, "steps": 2}


def test_what_is_not_read_is_not_computed() -> None:
    engine = CountingEngine()
    subject = Subject({"at": torch.tensor(1.0)}, {"at": torch.tensor(1.0)}, 1, engine)  # type: ignore[arg-type]
    read_episode(subject, tasks(), [Quantity(Condition("same-task"), lambda *_: 0.0)])
    assert engine.calls == {"adapt": 1, "steps": 1}


def test_a_curve_over_steps_takes_each_step_once() -> None:
    engine = CountingEngine()
    subject = Subject({"at": torch.tensor(1.0)}, {"at": torch.tensor(1.0)}, 4, engine)  # type: ignore[arg-type]
    path = Condition("same-task")
    curve = [replace(path, steps=1), replace(path, steps=3), path, replace(path, steps=2)]
    quantities = [Quantity(condition, largest) for condition in curve]
    values = read_episode(subject, tasks(), quantities)
    # `at` is 1 and a quarter per step; the largest pixel is 0.5
    assert [values[quantity] for quantity in quantities] == [0.625, 0.875, 1.0, 0.75]
    assert engine.calls["steps"] == 4


def test_features_come_from_the_layers_if_a_reading_needs_these() -> None:
    engine = CountingEngine()
    accuracy = NeighbourAccuracy("nearest", "euclidean", layer="pixels")
    quantities = [Quantity(META_INIT, accuracy), Quantity(META_INIT, largest)]
    for batch_stats, forwards in (("apart", 2), ("together", 1)):
        engine.calls.clear()
        subject = Subject({"at": torch.tensor(2.0)}, {}, 1, engine, batch_stats)  # type: ignore[arg-type]
        values = read_episode(subject, tasks(), quantities)
        assert list(values.values()) == [1.0, 1.0]
        assert engine.calls == {"activations": forwards}


def test_a_value_is_the_mean_over_the_batches_of_queries() -> None:
    engine = CountingEngine()
    quantity = Quantity(META_INIT, largest)
    x = torch.tensor([0.25, 0.5, 0.75, 0.0])[:, None, None, None].expand(-1, 3, 1, 1)
    judged = replace(tasks().judged, query_x=x, query_y=torch.tensor([0, 1, 0, 1]))
    expected = {"all": 0.75, "class": (0.75 + 0.5) / 2, "image": (0.25 + 0.5 + 0.75 + 0.0) / 4}
    for query_batch, value in expected.items():
        subject = Subject({"at": torch.tensor(1.0)}, {}, 1, engine, query_batch=query_batch)  # type: ignore[arg-type]
        assert read_episode(subject, Tasks(judged, {}), [quantity]) == {quantity: value}


def test_similarity_is_between_the_view_and_that_of_the_meta_initialisation() -> None:
    engine = CountingEngine()
    subject = Subject({"at": torch.tensor(1.0)}, {"at": torch.tensor(1.0)}, 1, engine)  # type: ignore[arg-type]
    negative = replace(tasks().judged, support_x=-4 * tasks().judged.support_x)
    turned = Tasks(tasks().judged, {Task("same-task"): tasks().judged, Task("cross-task"): negative})
    quantities = [Quantity(condition, Similarity("features", "cosine")) for condition in CONDITIONS[1:]]
    values = read_episode(subject, turned, quantities)
    # features are the pixels times 1 before, times 1.25 after B, and after A, whose first pixel is -1, times 0
    assert [values[quantity] for quantity in quantities] == pytest.approx([1.0, 0.0])
