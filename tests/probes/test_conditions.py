"""Each condition is computed once, on a stand-in engine that counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.probes.conditions import META_INIT, Condition, Subject, Tasks, View, read_episode


class CountingEngine:
    """Adapting adds the support's first pixel to `at`; features are `at` times the images."""

    name = "counting"

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def adapt(self, learner, params, inner_lr, support_x, support_y, *, steps, first_step=0):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        self.calls["adapt"] += 1
        return {"at": params["at"] + support_x.flatten()[0]}

    def features(self, learner, params, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        self.calls["features"] += 1
        return params["at"] * x.flatten(1)


def tasks() -> Tasks:
    x = torch.tensor([0.25, 0.5])[:, None, None, None].expand(-1, 3, 1, 1)
    b = Episode(x, torch.arange(2), x, torch.arange(2))
    return Tasks(b, {"same-task": b, "cross-task": replace(b, support_x=2 * x)})


CONDITIONS = [META_INIT, Condition("same-task"), Condition("cross-task")]


def test_features_are_computed_once_per_condition_whatever_is_read() -> None:
    engine = CountingEngine()
    subject = Subject(None, {"at": torch.tensor(1.0)}, {"at": torch.tensor(1.0)}, 1, engine)  # type: ignore[arg-type]

    def largest(view: View, _before: View) -> float:
        return view.features[1].max().item()

    def moved(view: View, before: View) -> float:
        return (view.features[1] - before.features[1]).max().item()

    readings = {"largest": largest, "again": largest, "moved": moved}
    seen = read_episode(subject, tasks(), CONDITIONS, readings, batch_stats="apart")
    # `at` is 1, then 1 + 0.25 and 1 + 0.5; the largest pixel is 0.5
    assert [values["largest"] for values in seen.values()] == [0.5, 0.625, 0.75]
    assert [values["moved"] for values in seen.values()] == [0.0, 0.125, 0.25]
    # support and query of three conditions; two adaptations
    assert engine.calls == {"features": 6, "adapt": 2}


def test_what_is_not_read_is_not_computed() -> None:
    engine = CountingEngine()
    subject = Subject(None, {"at": torch.tensor(1.0)}, {"at": torch.tensor(1.0)}, 1, engine)  # type: ignore[arg-type]
    read_episode(subject, tasks(), [Condition("same-task")], {"nothing": lambda *_: 0.0}, batch_stats="apart")
    assert engine.calls == {"adapt": 1}
