from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nilr.cli.boundary import run
from nilr.config.evaluation import CalibrateSettings, ProbeSettings
from nilr.errors import EpisodeError, UsageError
from nilr.meta.algorithms import ALGORITHMS
from nilr.recipes import calibrate, probe
from nilr.recipes.calibrate import anchors, compare
from nilr.recipes.calibrate.anchors import ANCHORS
from nilr.reporting import SilentReporter
from nilr.results.calibrate import Anchor, CalibrateMetrics, Judging
from nilr.results.records import Mean
from nilr.results.result import Result
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

PX84 = Path(__file__).parents[3] / "docs" / "reproduction" / "px84"
# of the model below: 3-way 1-shot, 4 filters, 16 px, 8 updates
FITTING: dict[str, Any] = {
    "source": "here",
    "reported_by": "paper",
    "algorithm": "maml",
    "body": "conv4",
    "filters": 4,
    "dataset": "mini-imagenet",
    "image_size": 16,
    "n_way": 3,
    "n_shot": 1,
    "accuracy": 0.5,
    "ci95": None,
    "outer_steps": 8,
}


def anchor(**change: Any) -> Anchor:
    return Anchor(**FITTING | change)


@pytest.fixture
def maml(quick: dict[str, Any]) -> str:
    train_model(algo="maml", name="maml", **quick)
    return "maml"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the table of anchors."""
    return lambda *rows: monkeypatch.setattr(anchors, "ANCHORS", rows)


def beside(model: str, **settings: Any) -> Result[CalibrateMetrics]:
    given = {"n_episodes": 4, "threads": 1} | settings
    return calibrate.run(CalibrateSettings(models=(model,), **given), SilentReporter())


def reasons(model: str, **settings: Any) -> list[list[str]]:
    (found,) = beside(model, **settings).metrics.models.values()
    assert found.judged == []
    return [other.reasons for other in found.not_comparable]


def test_the_table_has_the_published_figures() -> None:
    found = {
        (row.source, row.algorithm, row.network, row.dataset, row.n_shot, row.measured): (row.accuracy, row.ci95)
        for row in ANCHORS
        if "resnet" not in row.body
    }
    head, features = ("mini-imagenet", 1, "head"), ("mini-imagenet", 5, "features")
    assert len(found) == sum("resnet" not in row.body for row in ANCHORS), "two rows of one experiment"
    assert found["Finn et al. 2017", "maml", "conv4-32", *head] == (0.487, 0.0184)
    assert found["Li et al. 2017", "metasgd", "conv4-32", *head] == (0.5047, 0.0187)
    assert found["BOIL", "maml", "conv4-64", "cub", 5, "head"] == (0.6511, 0.0009)  # 2.776 * 0.07 / sqrt(5)
    assert found["Raghu et al. 2020", "random features", "conv4-32", *features] == (0.432, 0.005)
    assert found["Raghu et al. 2020", "maml", "conv4-32", *features] == (0.615, 0.008)
    assert {row.source for row in ANCHORS if row.ensemble} == {"Antoniou et al. 2019"}
    assert {row.source for row in ANCHORS if row.reported_by == "memory"} == {
        "Antoniou et al. 2019",
        "Chen et al. 2019",
        "Rusu et al. 2019",
    }


def test_the_algorithms_of_the_table_are_those_of_nilr_or_listed_here() -> None:
    assert {row.algorithm for row in ANCHORS} - set(ALGORITHMS) == {"random features", "maml++", "sparse-maml, binary"}


@pytest.mark.parametrize(
    ("measured", "ci95", "published", "band", "verdict"),
    [
        (0.46, 0.004, 0.003, 0.005, "below"),  # 3, 4, 5
        (0.50 - 0.0049, 0.004, 0.003, 0.005, "within"),
        (0.50 + 0.0049, 0.004, 0.003, 0.005, "within"),
        (0.51, 0.004, 0.003, 0.005, "above"),
        (0.512, 0.0075, None, 0.0125, "within"),  # 1 point without an interval
        (0.513, 0.0075, None, 0.0125, "above"),
    ],
)
def test_a_verdict_compares_the_difference_with_both_intervals(
    measured: float, ci95: float, published: float | None, band: float, verdict: str
) -> None:
    judging = Judging(measured="head", n_query=1, inner_steps=1, batch_stats="apart")
    found = compare(Mean(mean=measured, ci95=ci95, n_episodes=600), anchor(ci95=published), judging)
    assert (found.band, found.verdict) == (pytest.approx(band), verdict)
    assert found.difference == pytest.approx(measured - 0.5)


def test_each_anchor_is_judged_as_it_was_and_equal_ways_are_evaluated_once(
    maml: str, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(
        anchor(n_query=1, eval_inner_steps=2, batch_stats="apart"),
        anchor(n_query=1, eval_inner_steps=2, batch_stats="apart", source="again"),
        anchor(n_query=3, batch_stats="inductive"),
        anchor(n_query=1, batch_stats="apart", measured="features"),
        anchor(n_query=2, batch_stats="together", measured="features", algorithm="random features", ci95=0.01),
    )
    calls: list[ProbeSettings] = []
    original = probe.run
    monkeypatch.setattr(probe, "run", lambda settings, reporter: calls.append(settings) or original(settings, reporter))
    found = beside(maml).metrics.models[maml].judged
    assert [(call.n_query, call.batch_stats, call.controls) for call in calls] == [
        (1, "apart", False),
        (3, "inductive", False),
        (2, "together", True),
    ]
    ways = [(one.judging.n_query, one.judging.inner_steps, one.judging.assumed) for one in found]
    assert ways == [(1, 2, []), (1, 2, []), (1, None, []), (3, 10, ["inner_steps"]), (2, None, [])]

    def alone(**settings: Any) -> Any:
        whole = {"n_episodes": 4, "threads": 1, "models": (maml,)} | settings
        return original(ProbeSettings(**whole), SilentReporter()).metrics

    head = alone(n_query=1, inner_steps=2, own_head=True)[maml].own_head["learned"].same_task.accuracy
    features = alone(n_query=1, protocol="meta-init", neighbours=("attention",))[maml].meta_init.accuracy
    inductive = alone(n_query=3, batch_stats="inductive", own_head=True)[maml].own_head["learned"].same_task.accuracy
    settings = {"n_query": 2, "batch_stats": "together", "neighbours": ("attention",), "controls": True}
    random = alone(**settings)["untrained body"]
    assert [one.accuracy for one in found[:4]] == [head, head, features, inductive]
    over_both = random.meta_init.accuracy.ci95**2 + random.over_bodies["attention"].ci95 ** 2
    assert (found[4].accuracy.mean, found[4].accuracy.ci95 ** 2) == (
        random.meta_init.accuracy.mean,
        pytest.approx(over_both),
    )


def test_fifteen_queries_are_assumed_whatever_the_model_was_trained_with(maml: str, table: Any) -> None:
    table(anchor())
    with pytest.raises(EpisodeError, match="16"):  # 1 + 15; the pack has 8 images of a class
        beside(maml)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filters": 64}, ["64 filters, not 4"]),
        ({"filters": None}, ["filters not reported"]),
        ({"image_size": 84, "outer_steps": None}, ["84 px, not 16 px", "8 of 60,000 updates"]),
        ({"inner_steps": 1, "pretrained": True}, ["pretrained body", "trained with 1 inner step, not 5"]),
        ({"ensemble": True}, ["ensemble"]),
        ({"algorithm": "random features", "outer_steps": None, "image_size": 84}, ["84 px, not 16 px"]),
    ],
)
def test_an_anchor_that_differs_is_listed_with_the_reason_and_not_judged(
    maml: str, table: Any, change: dict[str, Any], words: list[str]
) -> None:
    table(anchor(**change))
    assert reasons(maml) == [words]


@pytest.mark.slow
def test_an_anchor_of_a_residual_body_differs_in_widths_and_in_its_blocks(table: Any, quick: dict[str, Any]) -> None:
    sizes = {name: value for name, value in quick.items() if name != "filters"}
    train_model(algo="maml", name="residual", arch="resnet12", widths=(4, 4, 4, 8), **sizes)
    residual = {"body": "resnet12", "filters": None}
    table(anchor(**residual, widths=[64, 128, 256, 512], body_differs="DropBlock"), anchor(**residual))
    assert reasons("residual") == [["widths 64,128,256,512, not 4,4,4,8", "DropBlock"], ["widths not reported"]]
    table(anchor(**residual, widths=[4, 4, 4, 8], n_query=3))
    assert beside("residual").metrics.models["residual"].not_comparable == []


@pytest.mark.parametrize(
    "change", [{"dataset": "tiered-imagenet"}, {"n_shot": 5}, {"body": "resnet12"}, {"algorithm": "anil"}]
)
def test_an_anchor_of_another_experiment_is_not_listed(maml: str, table: Any, change: dict[str, Any]) -> None:
    table(anchor(**change))
    result = beside(maml)
    assert reasons(maml) == []
    assert result.notes == ["maml: no published figure is known for maml with conv4 on `mini-imagenet`, 3-way 1-shot."]


def test_a_changed_algorithm_is_another_recipe(table: Any, quick: dict[str, Any]) -> None:
    train_model(algo="metasgd", rate_constraint="non-negative", batch_stats="inductive", name="positive", **quick)
    table(anchor(algorithm="metasgd"))
    assert reasons("positive") == [["constraint non-negative", "trained with inductive batch statistics"]]


@pytest.mark.slow
def test_rates_that_no_published_recipe_has_are_another_recipe(table: Any, quick: dict[str, Any]) -> None:
    table(anchor(n_query=3), anchor(algorithm="metasgd", n_query=3))
    changes: dict[str, dict[str, Any]] = {
        "learned": {"algo": "metasgd"},
        "scaled": {"algo": "metasgd", "rate_norm_from": "learned"},
        "means": {"inner_lr_from": "learned"},
        "uphill": {"inner_lr": -0.05},
        "still": {"inner_lr": 0.0},
    }
    for name, change in changes.items():
        train_model(name=name, **quick, **change)
    (fitting,) = beside("learned").metrics.models.values()
    assert fitting.not_comparable == []
    assert {name: reasons(name) for name in changes if name != "learned"} == {
        "scaled": [["rates scaled to another model's"]],
        "means": [["inner rate tensor-mean"]],
        "uphill": [["inner rate -0.05"]],
        "still": [["inner rate 0.0"]],
    }


def test_updates_are_those_of_the_whole_training(maml: str, table: Any, home: Path) -> None:
    table(anchor(outer_steps=9))
    assert reasons(f"{maml}@best") == reasons(f"{maml}@last") == [["8 of 9 updates"]]


def test_the_real_models_were_trained_for_fewer_updates(table: Any) -> None:
    table(*(row for row in ANCHORS if row.algorithm == "metasgd"))
    few = "2,500 of 60,000 updates"
    assert reasons(str(PX84 / "px84-metasgd-s0")) == [[few], ["64 filters, not 32", few]]


def test_the_list_is_the_whole_table_on_standard_output(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", "--list"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == len(ANCHORS) + 1
    assert "48.70 ± 1.84" in out
    with pytest.raises(UsageError, match="--list shows all anchors"):
        beside("maml", list=True)
