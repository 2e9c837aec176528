"""`nilr probe --directions` on real models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nilr.config.evaluation import ProbeSettings
from nilr.episodes import EpisodeSampler
from nilr.errors import UsageError
from nilr.meta.engine.explicit import ExplicitEngine
from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.directions import Displacement
from nilr.probes.readings import NeighbourAccuracy
from nilr.recipes import probe
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.packs import open_split
from nilr.reporting import SilentReporter
from nilr.results.result import Result
from nilr.sections.directions import SECTION
from nilr.sections.values import Values
from nilr.store import Store
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

BLOCKS = ["block1", "block2", "block3", "block4"]
CPU = torch.device("cpu")


@pytest.fixture
def sgd(quick: dict[str, Any]) -> str:
    large = {"inner_lr_init": "uniform-each:-2,2", "outer_steps": 1, "eval_every": 0}
    train_model(algo="metasgd", name="sgd", **(quick | large))
    return "sgd"


def judge(model: str, **settings: Any) -> Result[Any]:
    given = {"n_episodes": 6, "threads": 1, "n_query": 7, "inner_steps": 2, "directions": True} | settings
    return probe.run(ProbeSettings(models=(model,), **given), SilentReporter())


def adapted(model: Any, episode: Any) -> dict[str, Tensor]:
    """Return the parameters after two inner steps, by a plain loop."""
    params = dict(model.params)
    for _ in range(2):
        leaf = {name: value.clone().requires_grad_() for name, value in params.items()}
        loss = torch.nn.functional.cross_entropy(model.learner.logits(leaf, episode.support_x), episode.support_y)
        for name, g in zip(model.inner_lr, torch.autograd.grad(loss, [leaf[n] for n in model.inner_lr]), strict=True):
            params[name] = params[name] - model.inner_lr[name] * g
    return params


def test_displacements_equal_a_plain_loop(sgd: str, pack: Any) -> None:
    values = judge(sgd, protocol="same-task").per_episode[sgd]["directions"]["same-task"]
    assert list(values) == ["body", *BLOCKS]
    assert list(values["body"]) == ["learned", "negative", "twice", "random-signs", "gaussian"]
    assert list(values["block1"]) == ["learned", "negative", "random-signs"]
    model = load_model(Store(None), sgd, device=CPU, engine="reference")
    sampler = EpisodeSampler(open_split(pack, "test", CPU).images, 3, 1, 7, 0, "test")
    for i in range(6):
        b = sampler.draw([i])[0]
        after = adapted(model, b)
        for part, found in values.items():
            for direction, factor in {"learned": 1, "negative": -1, "twice": 2}.items():
                if direction not in found:
                    continue
                start = "body." if part == "body" else f"body.{part}."
                moved = {
                    name: value + factor * (after[name] - value) if name.startswith(start) else value
                    for name, value in model.params.items()
                }
                support, query = (model.learner.features(moved, x) for x in (b.support_x, b.query_x))
                cosine = torch.nn.functional.cosine_similarity(query[:, None], support[None], dim=-1)
                right = (b.support_y[cosine.argmax(1)] == b.query_y).double().mean().item()
                assert found[direction][i] == pytest.approx(right, abs=1e-6), (part, direction, i)


def test_odd_and_even_part_add_up_to_the_effect(sgd: str) -> None:
    result = judge(sgd, layers=("block4",))
    assert list(result.metrics[sgd].directions) == ["same-task", "cross-task"]
    moved = 0
    for protocol, parts in result.metrics[sgd].directions.items():
        values = result.per_episode[sgd]
        assert list(parts) == ["body", "block4"]
        before = sum(values["meta-init"]) / 6
        for part, found in parts.items():
            after, opposite = (sum(values["directions"][protocol][part][d]) / 6 for d in ("learned", "negative"))
            assert found.odd.mean == pytest.approx((after - opposite) / 2, abs=1e-12)
            assert found.even.mean == pytest.approx((after + opposite) / 2 - before, abs=1e-12)
            assert found.odd.mean + found.even.mean == pytest.approx(found.learned.delta.mean, abs=1e-12)
            moved += found.odd.mean != 0
        assert values["directions"][protocol]["body"]["learned"] == values[protocol]
    assert moved


def test_rounding_of_equal_accuracies_is_no_even_effect() -> None:
    # by hand: one query more is right after d, one less after -d, in every episode
    before, after, opposite = (torch.arange(1, 74, dtype=torch.float64).add(right) / 75 for right in (0, 1, -1))
    assert ((after + opposite) / 2 != before).any()
    reading = NeighbourAccuracy("nearest", "cosine")
    conditions = (
        META_INIT,
        Condition("same-task"),
        Condition("same-task", displacement=Displacement("negative", "body")),
    )
    quantities = [Quantity(condition, reading) for condition in conditions]
    values = Values(dict(zip(quantities, (before, after, opposite), strict=True)))
    found = SECTION.build(
        {"body": {"learned": quantities[1], "negative": quantities[2], "random-signs": quantities[1]}}, values
    )
    assert found["body"].even.verdict == "exactly zero"


def test_a_direction_costs_a_feature_pass_and_no_adaptation(sgd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"features": 0, "adapt": 0}
    for name in calls:
        method = getattr(ExplicitEngine, name)

        def counted(*args: Any, _name: str = name, _method: Any = method, **named: Any) -> Any:
            calls[_name] += 1
            return _method(*args, **named)

        monkeypatch.setattr(ExplicitEngine, name, counted)
    judge(sgd, n_episodes=2, engine="explicit")
    # support and query at the meta-initialisation, and for both protocols after 5 displacements of the body and 3 of
    # each of 4 layers
    assert calls == {"features": 2 * 2 * (1 + 2 * (5 + 4 * 3)), "adapt": 2 * 2}


def test_a_part_that_does_not_move_has_no_directions(sgd: str, quick: dict[str, Any]) -> None:
    train_model(algo="anil", name="anil", **quick)
    assert judge("anil", n_episodes=3).metrics["anil"].directions == {}
    assert judge(sgd, n_episodes=3, adapt_part=("head",)).metrics[sgd].directions == {}
    alone = judge(sgd, n_episodes=3, adapt_part=("block2", "head")).metrics[sgd].directions["same-task"]
    assert list(alone) == ["body", "block2"]


def test_directions_need_a_protocol_that_adapts() -> None:
    with pytest.raises(
        UsageError, match="--directions evaluates same-task and cross-task, and --protocol is meta-init"
    ):
        judge("nowhere", protocol="meta-init")
