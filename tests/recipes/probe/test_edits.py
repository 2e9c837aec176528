"""Edits of the rates, on real models and through the whole command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nilr.checkpoint import load_checkpoint, save_checkpoint
from nilr.cli.boundary import run
from nilr.config.evaluation import ProbeSettings
from nilr.meta.algorithms import ALGORITHMS, Algorithm
from nilr.meta.engine.explicit import ExplicitEngine
from nilr.metrics import paired_difference
from nilr.probes.edits import EDITS
from nilr.recipes import probe
from nilr.reporting import SilentReporter
from nilr.results.result import Result
from nilr.store import Store
from tests.trained import train_model

pytestmark = pytest.mark.usefixtures("pack", "one_thread")


@pytest.fixture
def sgd(quick: dict[str, Any]) -> str:
    train_model(algo="metasgd", name="sgd", **quick)
    return "sgd"


def give_rates(model: str, name: str, change: Any) -> str:
    """Store a copy of the model whose rates are changed, and return its name."""
    old = load_checkpoint(Store(None).find_model(model).file)
    kept = old.manifest.model_dump(
        include={"architecture", "algorithm", "settings", "data", "outer_step", "engine", "metrics", "parent"}
    )
    rates: dict[str, Tensor] = {tensor: change(rate) for tensor, rate in old.inner_lr.items()}
    path = Store(None).model_dir(name) / "last.safetensors"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, params=old.params, inner_lr=rates, **kept)
    return name


def mixed(rate: Tensor) -> Tensor:
    return torch.randn(rate.shape, generator=torch.Generator().manual_seed(rate.numel()))


def exact(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def judge(*models: str, **settings: Any) -> Result[Any]:
    given = {"n_episodes": 5, "threads": 1} | settings
    return probe.run(ProbeSettings(models=models, **given), SilentReporter())


def test_every_edit_has_differences_to_meta_init_and_to_learned_on_the_same_episodes(sgd: str) -> None:
    model = give_rates(sgd, "mixed", mixed)
    result = judge(model, rates=(",".join(EDITS), "0.05"))
    found = json.loads(result.model_dump_json())["metrics"][model]["edits"]
    values = result.per_episode[model]
    assert list(found) == [*EDITS, "0.05"]
    for name, by_protocol in found.items():
        for protocol in ("same-task", "cross-task"):
            own = exact(values["edits"][name][protocol])
            figures = by_protocol[protocol]
            assert figures["accuracy"]["mean"] == pytest.approx(own.mean().item())
            before = paired_difference(own, exact(values["meta-init"]))
            assert figures["delta"]["mean"] == pytest.approx(before.mean)
            if name == "learned":
                assert figures["delta_to_learned"] is None
            else:
                learned = paired_difference(own, exact(values["edits"]["learned"][protocol]))
                assert figures["delta_to_learned"]["mean"] == pytest.approx(learned.mean)
                assert figures["delta_to_learned"]["ci95"] == pytest.approx(learned.ci95)


def test_an_edit_equals_a_model_with_these_rates(sgd: str) -> None:
    model = give_rates(sgd, "mixed", mixed)
    edits = judge(model, rates=("zero-negative", "negated", "0.2")).per_episode[model]["edits"]
    changes = {
        "zero-negative": lambda rate: mixed(rate).relu(),
        "negated": lambda rate: -mixed(rate),
        "0.2": lambda rate: torch.full_like(rate, 0.2),
    }
    for i, (name, change) in enumerate(changes.items()):
        alone = judge(give_rates(sgd, f"changed-{i}", change)).per_episode[f"changed-{i}"]
        assert edits[name] == {protocol: alone[protocol] for protocol in ("same-task", "cross-task")}


def test_the_protocols_use_the_first_edit_and_the_note_on_the_paper_uses_learned(sgd: str) -> None:
    model = give_rates(sgd, "mixed", mixed)
    edited, learned = judge(model, rates=("negated", "absolute")), judge(model)
    assert list(edited.metrics[model].edits) == ["negated", "absolute", "learned"]
    assert edited.config["rates"] == ["negated", "absolute"]
    own, beside = edited.metrics[model].same_task, edited.metrics[model].edits["negated"].same_task
    assert own.model_dump() == beside.model_dump(exclude={"delta_to_learned"})
    assert edited.per_episode[model]["same-task"] == edited.per_episode[model]["edits"]["negated"]["same-task"]
    assert edited.notes[-1] == learned.notes[-1]
    assert edited.per_episode[model]["edits"]["learned"] == {
        protocol: learned.per_episode[model][protocol] for protocol in ("same-task", "cross-task")
    }


def test_without_negative_rates_absolute_and_zero_negative_change_exactly_nothing(sgd: str) -> None:
    model = give_rates(sgd, "positive", lambda rate: mixed(rate).abs())
    edits = judge(model, rates=("absolute", "zero-negative")).metrics[model].edits
    for name in ("absolute", "zero-negative"):
        assert edits[name].cross_task.delta_to_learned.verdict == "exactly zero"


def test_without_positive_rates_zero_negative_is_the_meta_initialisation(sgd: str) -> None:
    model = give_rates(sgd, "negative", lambda rate: -mixed(rate).abs())
    figures = judge(model, rates=("zero-negative",)).metrics[model]
    for found in (figures.same_task, figures.cross_task):
        assert (found.delta.mean, found.delta.verdict) == (0.0, "exactly zero")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
def test_every_algorithm_can_be_edited(row: Algorithm, quick: dict[str, Any]) -> None:
    trained = {"inner_steps": 2, "eval_inner_steps": 2} | quick
    train_model(algo=row.name, name="it", **trained)
    result = judge("it", rates=tuple(EDITS), n_episodes=2)
    values = result.per_episode["it"]["edits"]
    assert set(values) == set(EDITS)
    if row.grain != "element":
        assert values["shuffled"] == values["tensor-mean"] == values["learned"]
    if row.grain == "fixed":
        assert values["zero-positive"]["same-task"] == result.per_episode["it"]["meta-init"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("grain", ["scalar", "tensor", "element"])
def test_rates_of_every_grain_and_per_step_are_edited_in_their_shape(grain: Any, quick: dict[str, Any]) -> None:
    trained = {"inner_steps": 2, "eval_inner_steps": 3, "rate_grain": grain, "rate_per_step": True} | quick
    train_model(algo="metasgd", name="it", **trained)
    model = give_rates("it", "mixed", lambda rate: mixed(rate) / 10)
    values = judge(model, rates=("negated", "shuffled-signs", "norm-matched")).per_episode[model]["edits"]
    negated = judge(give_rates("it", "negated", lambda rate: -mixed(rate) / 10)).per_episode["negated"]
    assert values["negated"] == {protocol: negated[protocol] for protocol in ("same-task", "cross-task")}
    if grain != "element":
        assert values["shuffled-signs"] == values["learned"]


def test_a_part_that_is_not_adapted_does_not_change_the_features(sgd: str, quick: dict[str, Any]) -> None:
    train_model(algo="boil", name="boil", **quick)
    result = judge(sgd, "boil", adapt_part=("head",))
    assert result.metrics[sgd].same_task.delta.verdict == "exactly zero"
    assert result.metrics["boil"].same_task.delta.verdict == "exactly zero"
    assert result.notes[0] == "boil is not adapted: boil adapts only the body, and --adapt-part is head."
    assert result.notes[-1].startswith("This probe measured none of the paper's four signs")
    assert result.config["adapt_part"] == ["head"]


def test_parts_add_up_to_all(sgd: str) -> None:
    model = give_rates(sgd, "mixed", mixed)
    parts = judge(model, adapt_part=("block1,block2", "block3", "block4", "head"))
    assert parts.per_episode == judge(model).per_episode
    assert parts.per_episode != judge(model, adapt_part=("block4",)).per_episode


def test_features_at_the_meta_initialisation_are_computed_once_for_all_edits(
    sgd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    features = ExplicitEngine.features

    def counted(self: ExplicitEngine, *args: Any) -> Tensor:
        calls.append(1)
        return features(self, *args)

    monkeypatch.setattr(ExplicitEngine, "features", counted)
    judge(sgd, n_episodes=2, rates=("learned,absolute,negated",), engine="explicit")
    # 2 episodes, support and query of the meta-initialisation and of 3 edits under 2 protocols
    assert len(calls) == 2 * 2 * (1 + 3 * 2)


def test_the_command_line_takes_several_rates_and_shows_one_table(sgd: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["probe", sgd, "--rates", "learned,zero-negative", "--rates", "-0.05", "--n-episodes", "2"]
    assert run([*args, "--threads", "1", "--adapt-part", "body", "--inner-steps", "2", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert set(result["metrics"][sgd]["edits"]) == {"learned", "zero-negative", "-0.05"}
    assert result["config"]["inner_steps"] == {sgd: 2}
    (header,) = [line for line in err.splitlines() if "delta to learned" in line]
    assert header.split("  ")[0] == "model"
    assert [line.split()[:3] for line in err.splitlines() if line.startswith("sgd  ")] == [
        ["sgd", "meta-init", "-"],
        *(
            [sgd, protocol, rates]
            for protocol in ("same-task", "cross-task")
            for rates in result["metrics"][sgd]["edits"]
        ),
    ]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--rates", "xyz", "error: unknown rates `xyz`\nhint: known: learned, zero-negative, "),
        ("--adapt-part", "conv9", "error: unknown part to adapt `conv9`\nhint: known: all, body, head, block1, "),
    ],
)
@pytest.mark.parametrize("command", ["probe", "adapt"])
def test_an_unknown_value_is_an_error_that_lists_the_known_ones(
    command: str, option: str, value: str, said: str, sgd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["-q", command, sgd, option, value, "--threads", "1"]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_adapt_accepts_only_one_edit(sgd: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-q", "adapt", sgd, "--rates", "learned,absolute"]) == 2
    assert capsys.readouterr().err == (
        "error: `adapt` uses one edit of the rates; --rates has 2: learned, absolute\n"
        "hint: select one; `probe` compares several\n"
    )


def test_an_adapted_model_records_its_adaptation(sgd: str, home: Path) -> None:
    args = ["-q", "adapt", sgd, "--name", "edited", "--rates", "norm-matched", "--adapt-part", "block4,head"]
    assert run([*args, "--threads", "1", "--inner-steps", "3"]) == 0
    parent, child = (load_checkpoint(Store(None).find_model(name).file) for name in (sgd, "edited"))
    assert child.manifest.parent is not None
    assert child.manifest.parent.model_dump() == {
        "name": sgd,
        "digest": parent.digest,
        "adaptation": {"rates": "norm-matched", "adapt_part": ["block4", "head"], "inner_steps": 3},
    }
    moved = {name for name, value in child.params.items() if not torch.equal(value, parent.params[name])}
    assert {name.split(".")[0] if name.startswith("head") else name.split(".")[1] for name in moved} == {
        "block4",
        "head",
    }


def test_the_engine_does_not_change_what_an_edit_does(sgd: str) -> None:
    model = give_rates(sgd, "mixed", mixed)
    rates = tuple(EDITS)
    assert (
        judge(model, rates=rates, engine="reference").per_episode
        == judge(model, rates=rates, engine="explicit").per_episode
    )
