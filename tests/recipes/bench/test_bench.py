from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch

from docs.generate import schemas
from nilr.config.bench import BenchSettings
from nilr.config.meta_train import PRESETS
from nilr.errors import DeviceError, UnknownNameError, UsageError
from nilr.meta.engine.registry import AUTO, ENGINES
from nilr.models.registry import build_learner
from nilr.recipes import bench
from nilr.recipes.bench.worker import Job, Turn
from nilr.reporting import SilentReporter
from nilr.results.result import Result, to_json

TINY: dict[str, Any] = {
    "image_size": 16, "filters": 4, "n_way": 2, "n_query": 2, "rounds": 1, "threads": 1,
}  # fmt: skip


def measure(**settings: Any) -> Result[Any]:
    return bench.run(BenchSettings(**(TINY | settings)), SilentReporter())


@pytest.fixture
def two_seconds(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Let every job take 2 s and 3 s in two rounds, and convolutions run at 100 to 400 GFLOP/s; return the jobs."""
    asked: list[Job] = []

    def take_turns(wanted: list[Job], *_: Any) -> Any:
        asked.extend(dict.fromkeys(wanted))
        rates = [1e11, 2e11, 3e11, 4e11] * (4 if wanted[0].arch == "resnet12" else 1)
        return {job: [Turn([2.0], 10, 30), Turn([3.0], 10, 40)] for job in wanted}, [rates]

    monkeypatch.setattr(bench, "take_turns", take_turns)
    return asked


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_every_engine_of_this_machine_is_timed_without_a_dataset(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PRESETS", {"quick": PRESETS["quick"]})
    result = measure(algo="maml")
    engines = result.metrics.engines["maml"]
    cpu = torch.device("cpu")
    learner = build_learner("conv4", n_way=2, image_size=16, filters=4)
    assert list(engines) == [name for name in AUTO["cpu"] if ENGINES[name].supports(learner, cpu)]
    for engine in engines.values():
        for timing in (engine.update, engine.evaluation):
            assert 0 < timing.seconds_fastest <= timing.seconds <= timing.seconds_slowest
            assert timing.episodes_per_second == pytest.approx(timing.episodes / timing.seconds)
            assert 0 < timing.memory_before_bytes <= timing.peak_memory_bytes
            assert timing.share_of_attainable is None or 0 < timing.share_of_attainable <= 1
    assert result.metrics.presets["quick"].seconds > 0
    assert not home.exists()
    jsonschema.validate(json.loads(to_json(result)), schemas()["bench"])


def test_figures_follow_from_the_turns_by_hand(two_seconds: list[Job]) -> None:
    metrics = measure(algo="maml", image_size=84, filters=32, n_way=5, n_query=15).metrics
    assert set(metrics.presets) == {name for name in PRESETS if not name.startswith("resnet12")}
    timing = metrics.engines["maml"]["reference"].update
    assert (timing.seconds, timing.seconds_fastest, timing.seconds_slowest) == (2.5, 2.0, 3.0)
    assert (timing.memory_before_bytes, timing.peak_memory_bytes) == (10, 40)
    assert timing.episodes_per_second == 4 / 2.5
    assert metrics.attainable_flop_per_second == 4e11
    assert timing.share_of_attainable == pytest.approx(88.7e9 / 2.5 / 4e11, rel=1e-3)
    preset = metrics.presets["finn-1shot"]
    # an evaluation of 4 episodes (46.8 GFLOP) takes 2.5 s; one of 200 comes at 60 points of 60,000 updates
    assert (preset.validations, preset.seconds_per_validation) == (60, 125.0)
    # 300 queries (16.4 GFLOP) are judged before adaptation in every 10th update
    assert preset.seconds_per_update == pytest.approx(2.5 + 2.5 * 16.4 / 46.8 / 10, rel=1e-3)
    assert preset.seconds == pytest.approx(60_000 * preset.seconds_per_update + 60 * 125.0)
    assert preset.peak_memory_bytes == 40


def test_presets_are_those_of_the_body_with_their_own_sizes(two_seconds: list[Job]) -> None:
    metrics = bench.run(BenchSettings(arch="resnet12", algo="maml", image_size=16), SilentReporter()).metrics
    assert set(metrics.presets) == {"resnet12-1shot", "resnet12-5shot", "quick"}
    bodies = {(job.algorithm.inner_lr_init, job.n_shot): job.body for job in two_seconds}
    assert bodies["0.05", 1] == (("widths", (64, 160, 320, 640)),)
    assert bodies["0.01", 1] == (("widths", (64, 128, 256, 512)),)
    assert bodies["0.01", 5] == bodies["0.01", 1]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_residual_body_is_timed_with_its_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PRESETS", {"quick": PRESETS["quick"]})
    shape = {name: value for name, value in TINY.items() if name != "filters"}
    settings = BenchSettings(arch="resnet12", widths=(4, 4, 4, 4), algo="metasgd", **shape)
    metrics = bench.run(settings, SilentReporter()).metrics
    assert [rate.convolution for rate in metrics.convolutions[:4]] == [
        *("3 -> 4 channels at 16 px", "4 -> 4 channels at 16 px", "4 -> 4 channels at 16 px"),
        "1x1, 3 -> 4 channels at 16 px",
    ]
    assert len(metrics.convolutions) == 16
    assert 0 < metrics.presets["quick"].peak_memory_bytes < 4e9


def test_presets_with_the_shape_of_a_timed_algorithm_need_no_further_turns(two_seconds: list[Job]) -> None:
    measure()
    one_engine = [job for job in two_seconds if job.engine == "reference"]
    assert [(job.algorithm.name, job.task) for job in one_engine] == [
        ("maml", "update"), ("maml", "evaluation"), ("metasgd", "update"), ("metasgd", "evaluation"),
    ]  # fmt: skip
    default = next(iter(job.engine for job in two_seconds))
    assert (
        len([job for job in two_seconds if job.engine == default]) == 8
    )  # and two each of the 5-shot preset and of conv4-64-1shot


def test_one_engine_and_one_algorithm_can_be_asked_for(two_seconds: list[Job]) -> None:
    result = measure(engine="reference", algo="anil", inner_steps=2)
    assert {name: list(engines) for name, engines in result.metrics.engines.items()} == {"anil": ["reference"]}
    assert result.metrics.engines["anil"]["reference"].update.inner_steps == 2
    assert {preset.engine for preset in result.metrics.presets.values()} == {"reference"}
    assert result.metrics.unavailable == []


def test_an_engine_that_was_not_built_is_named(two_seconds: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    absent = SimpleNamespace(name="warp", supports=lambda *_: False)
    monkeypatch.setitem(ENGINES, "warp", absent)
    monkeypatch.setitem(AUTO, "cpu", ("warp", *AUTO["cpu"]))
    result = measure()
    assert result.metrics.unavailable == ["warp"]
    assert "warp" not in result.metrics.engines["maml"]
    assert any("warp" in note for note in result.notes)


def test_an_engine_without_the_precision_is_reported_as_such(two_seconds: list[Job]) -> None:
    result = measure(precision="bf16")
    assert result.metrics.unavailable[-1] == "reference"
    assert any("--precision" in note and "reference" in note for note in result.notes)


def test_on_a_gpu_updates_are_timed_without_capture_as_well(
    two_seconds: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "prepare", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(bench, "environment", lambda *_: {})
    engines = measure(algo="maml").metrics.engines["maml"]
    assert engines["batched"].update_uncaptured is not None
    assert engines["reference"].update_uncaptured is None
    uncaptured = [job for job in two_seconds if not job.captured]
    assert [(job.engine, job.task) for job in uncaptured] == [("batched", "update")]
    assert uncaptured[0].label == "batched, uncaptured"


def test_no_share_is_above_one_and_the_note_says_why_there_is_none(
    two_seconds: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape: dict[str, Any] = {"algo": "maml", "image_size": 84, "filters": 32, "n_way": 5, "n_query": 15}
    monkeypatch.setattr(bench, "PRESETS", {"quick": PRESETS["quick"]})
    whole = bench.take_turns
    # 88.7 GFLOP in 2.5 s are 35.5 GFLOP/s
    for attainable, known in ((36e9, True), (35e9, False)):
        monkeypatch.setattr(bench, "take_turns", lambda *asked, rate=attainable: (whole(*asked)[0], [[rate] * 4]))
        result = measure(**shape)
        timings = [engine.update for engine in result.metrics.engines["maml"].values()]
        timings += [engine.evaluation for engine in result.metrics.engines["maml"].values()]
        assert all((timing.share_of_attainable is not None) is known for timing in timings)
        assert any("shares are left out" in note for note in result.notes) is not known


def test_uneven_turns_are_reported(two_seconds: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("differ" in note for note in measure().notes) or bench.UNEVEN < 1.5
    monkeypatch.setattr(bench, "UNEVEN", 1.4)
    assert any("by a factor of up to 1.5" in note for note in measure().notes)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"engine": "warp"}, UnknownNameError),
        ({"algo": "warp"}, UnknownNameError),
        ({"arch": "warp"}, UnknownNameError),
        ({"device": "warp"}, UsageError),
        ({"engine": "reference", "precision": "bf16"}, UsageError),
        ({"device": "cuda:99"}, DeviceError),
    ],
)
def test_a_missing_name_or_device_is_refused_before_anything_is_timed(
    change: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        measure(**change)
