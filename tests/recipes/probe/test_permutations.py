"""`nilr probe --permutations` and `--head` with the model's own number of classes, on real models."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor

from nilr.config.evaluation import ProbeSettings
from nilr.episodes import EpisodeSampler
from nilr.meta.engine.explicit import ExplicitEngine
from nilr.probes.tasks import draw_permutations
from nilr.recipes import probe
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.packs import open_split
from nilr.reporting import SilentReporter
from nilr.results.result import Result
from nilr.store import Store
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

CPU = torch.device("cpu")


@pytest.fixture
def maml(quick: dict[str, Any]) -> str:
    few = {"outer_steps": 2, "eval_every": 0, "inner_lr": 0.4}
    train_model(algo="maml", name="maml", **(quick | few))
    return "maml"


def judge(model: str, **settings: Any) -> Result[Any]:
    given = {"n_episodes": 4, "threads": 1, "n_query": 7, "inner_steps": 3} | settings
    return probe.run(ProbeSettings(models=(model,), **given), SilentReporter())


def adapted(model: Any, params: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the parameters after three inner steps, by a plain loop."""
    for _ in range(3):
        leaf = {name: value.clone().requires_grad_() for name, value in params.items()}
        loss = torch.nn.functional.cross_entropy(model.learner.logits(leaf, x), y)
        gradients = torch.autograd.grad(loss, [leaf[name] for name in model.inner_lr])
        steps = {name: model.inner_lr[name] * g for name, g in zip(model.inner_lr, gradients, strict=True)}
        params = {name: value - steps[name] if name in steps else value for name, value in params.items()}
    return params


def nearest(model: Any, params: dict[str, Tensor], b: Any) -> Tensor:
    support, query = (model.learner.features(params, x) for x in (b.support_x, b.query_x))
    return b.support_y[torch.nn.functional.cosine_similarity(query[:, None], support[None], dim=-1).argmax(1)]


def share(right: Tensor) -> float:
    return right.double().mean().item()


def test_permuted_labels_equal_a_plain_loop_that_relabels_support_and_query(maml: str, pack: Any) -> None:
    result = judge(maml, permutations=6)
    values = result.per_episode[maml]["permutations"]
    orders = list(itertools.permutations(range(3)))
    for readers in values.values():
        for found in readers.values():
            assert sorted(found) == ["-".join(map(str, order)) for order in orders]
    model = load_model(Store(None), maml, device=CPU, engine="reference")
    images = open_split(pack, "test", CPU).images
    for i in range(4):
        sampler = EpisodeSampler(images, 3, 1, 7, 0, "test")
        classes, _ = sampler.choose([i])
        b = sampler.draw([i])[0]
        of_a = EpisodeSampler(images, 3, 1, 0, 0, "test/task-a")
        a = of_a.load(*of_a.choose([i], avoid=classes))[0]
        for order in orders:
            name, labels = "-".join(map(str, order)), torch.tensor(order)
            params = adapted(model, model.params, b.support_x, labels[b.support_y])
            head = model.learner.logits(params, b.query_x).argmax(1) == labels[b.query_y]
            assert values["same-task"]["own-head"][name][i] == pytest.approx(share(head), abs=1e-6)
            right = share(nearest(model, params, b) == b.query_y)
            assert values["same-task"]["neighbours"][name][i] == pytest.approx(right, abs=1e-6)
            params = adapted(model, model.params, a.support_x, labels[a.support_y])
            right = share(nearest(model, params, b) == b.query_y)
            assert values["cross-task"]["neighbours"][name][i] == pytest.approx(right, abs=1e-6)
    head = values["same-task"]["own-head"]
    assert any(len(set(over)) > 1 for over in zip(*head.values(), strict=True))
    figures = result.metrics[maml].permutations["same-task"]["own-head"]
    episodes = list(zip(*head.values(), strict=True))
    assert figures.mean.mean == pytest.approx(statistics.fmean(map(statistics.fmean, episodes)))
    assert figures.spread.mean == pytest.approx(statistics.fmean(map(statistics.stdev, episodes)))
    assert figures.best.mean == pytest.approx(statistics.fmean(map(max, episodes)))
    assert figures.worst.mean == pytest.approx(statistics.fmean(map(min, episodes)))


def test_each_permutation_but_the_identity_costs_an_adaptation(maml: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    adapt = ExplicitEngine.adapt
    monkeypatch.setattr(ExplicitEngine, "adapt", lambda *a, **k: calls.append(1) or adapt(*a, **k))
    result = judge(maml, permutations=4, n_episodes=2, engine="explicit")
    assert len(calls) == 2 * 2 * 4  # episodes, protocols, permutations
    values = result.per_episode[maml]
    assert values["permutations"]["cross-task"]["neighbours"]["0-1-2"] == values["cross-task"]


def test_permutations_differ_and_begin_with_the_identity() -> None:
    found = draw_permutations(5, 20, 0)
    assert found[0] == (0, 1, 2, 3, 4)
    assert len(set(found)) == 20
    assert all(sorted(permutation) == [0, 1, 2, 3, 4] for permutation in found)
    assert draw_permutations(5, 20, 0) == found != draw_permutations(5, 20, 1)
    assert sorted(draw_permutations(4, 1000, 0)) == sorted(itertools.permutations(range(4)))


def test_a_note_says_that_there_are_fewer_permutations_than_requested(maml: str) -> None:
    result = judge(maml, permutations=50, n_episodes=1, inner_steps=1)
    assert "--permutations 50: 3 labels have 6; these are used." in result.notes
    assert len(result.per_episode[maml]["permutations"]["same-task"]["neighbours"]) == 6


def test_a_head_of_zeros_replaces_the_trained_one_and_favours_no_label(maml: str, pack: Any) -> None:
    result = judge(maml, head="zeros", permutations=6, own_head=True)
    assert result.question == "3-way, 7 queries per class, head zeros, 3 inner steps, 4 episodes"
    assert result.notes[0] == "maml starts from a head of zeros (--head zeros)."
    for readers in result.metrics[maml].permutations.values():
        assert [found.spread.mean for found in readers.values()] == pytest.approx([0] * len(readers), abs=1e-9)
    head = result.per_episode[maml]["own_head"]["learned"]
    assert head["meta-init"] == pytest.approx([1 / 3] * 4)  # all logits are equal
    model = load_model(Store(None), maml, device=CPU, engine="reference")
    zeroed = {n: torch.zeros_like(v) if n.startswith("head.") else v for n, v in model.params.items()}
    for i in range(4):
        b = EpisodeSampler(open_split(pack, "test", CPU).images, 3, 1, 7, 0, "test").draw([i])[0]
        params = adapted(model, zeroed, b.support_x, b.support_y)
        right = share(model.learner.logits(params, b.query_x).argmax(1) == b.query_y)
        assert head["same-task"][i] == pytest.approx(right, abs=1e-6)
        right = share(nearest(model, params, b) == b.query_y)
        assert result.per_episode[maml]["same-task"][i] == pytest.approx(right, abs=1e-6)
