from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from docs.generate import schemas
from nilr.checkpoint import Architecture, Manifest, Parent, TrainedOn
from nilr.commands import result_types
from nilr.errors import StoreError
from nilr.results.bench import BenchMetrics, ConvolutionRate, EngineBench, PresetTime, Timing
from nilr.results.calibrate import Anchor, CalibrateMetrics, Judged, Judging, ModelCalibration, NotComparable
from nilr.results.commands import (
    AdaptMetrics,
    ImageRef,
    ImportedModel,
    ModelCard,
    ModelComparison,
    Prediction,
    PrepareDataMetrics,
    RateRow,
    SplitCounts,
    TrainMetrics,
)
from nilr.results.data import PackCard, PackCheck, PackRow, SplitCard
from nilr.results.probe import (
    Histogram,
    ModelProbe,
    ModelRates,
    ProtocolMetrics,
    RateFigures,
    TensorRates,
)
from nilr.results.records import DataUsed, Delta, Mean, ModelUsed, Overlap, PackName
from nilr.results.reproduce import OverSeeds, ReproduceMetrics, RunFigures, Sign
from nilr.results.result import Result, to_json, write_result

PAIR = (
    ImageRef(split="train", class_name="n02950826", filename="a.jpg"),
    ImageRef(split="val", class_name="n04389033", filename="b.jpg"),
)
RATES = RateFigures(
    count=2,
    mean=0.0,
    std=1.0,
    quantiles={"0.5": 0.0},
    share_negative=0.5,
    histogram=Histogram(edges=[-1.0, 0.0, 1.0, 2.0], counts=[1, 0, 1]),
    cosine=Mean(mean=0.5, ci95=None, n_episodes=1),
)
METRICS: dict[str, Any] = {
    "prepare-data": PrepareDataMetrics(
        splits={"train": SplitCounts(classes=64, images=38_400)}, duplicate_pairs=[PAIR]
    ),
    "meta-train": TrainMetrics(
        outer_step=10,
        query_loss=1.5,
        accuracy_before=0.2,
        accuracy_after=0.3,
        best_outer_step=None,
        best_val_accuracy=None,
        last_val_accuracy=None,
        share_negative=None,
        seconds_per_update=0.1,
    ),
    "adapt": AdaptMetrics(
        classes=["cat"],
        support_images=1,
        query_images=1,
        support_loss_before=1.6,
        support_loss_after=1.0,
        accuracy_before=None,
        accuracy_after=None,
        predictions=[Prediction(image="ß.png", label=None, before="cat", after="cat", probabilities={"cat": 1.0})],
    ),
    "probe": {
        "maml": ModelProbe(
            meta_init=ProtocolMetrics(accuracy=Mean(mean=0.4, ci95=None, n_episodes=1)),
            same_task=ProtocolMetrics(
                accuracy=Mean(mean=0.4, ci95=0.0, n_episodes=2),
                delta=Delta(mean=0.0, ci95=0.0, p=None, verdict="exactly zero"),
            ),
        )
    },
    "rates": {
        "maml": ModelRates(
            inner_steps=1,
            all=RATES,
            kinds={"head bias": RATES},
            layers={"head": RATES},
            tensors={"head.bias": TensorRates(layer="head", kind="head bias", no_signal=0, **RATES.model_dump())},
            left_out=[],
            not_moved=["head.weight"],
        )
    },
}
_TIMING: dict[str, Any] = {
    "episodes": 4,
    "inner_steps": 5,
    "seconds": 0.5,
    "seconds_fastest": 0.4,
    "seconds_slowest": 0.6,
    "episodes_per_second": 8.0,
    "flop": 88_700_000_000,
    "share_of_attainable": 0.6,
    "memory_before_bytes": 250_000_000,
    "peak_memory_bytes": 700_000_000,
}
_SEEDS = OverSeeds(mean=0.01, ci95=None, spread=None, p=None, n_seeds=1, verdict="undecided", seeds={"0": 0.01})
_SIGN = Sign(run="maml", protocol="same-task", claimed=1, finding="undecided", measured=_SEEDS)
METRICS["reproduce"] = ReproduceMetrics(
    signs=[_SIGN],
    choices={"euclidean distance": [_SIGN]},
    runs={"maml": RunFigures(why="the claim", models=["cpu-maml-s0"], to_meta_init={"same-task": _SEEDS})},
    files=["cpu-maml-s0.probe-0123456789ab.json"],
)
_ANCHOR = Anchor(
    source="Finn et al. 2017",
    reported_by="paper",
    algorithm="maml",
    body="conv4",
    filters=32,
    dataset="mini-imagenet",
    image_size=84,
    n_shot=1,
    accuracy=0.487,
    ci95=0.0184,
)
_JUDGED = Judged(
    anchor=_ANCHOR,
    judging=Judging(measured="head", n_query=1, inner_steps=10, batch_stats="apart"),
    accuracy=Mean(mean=0.48, ci95=0.01, n_episodes=600),
    difference=-0.007,
    band=0.021,
    verdict="within",
)
METRICS["calibrate"] = CalibrateMetrics(
    models={
        "maml": ModelCalibration(judged=[_JUDGED], not_comparable=[NotComparable(anchor=_ANCHOR, reasons=["ensemble"])])
    },
    anchors=[_ANCHOR],
)
METRICS["models-import"] = {
    "maml": ImportedModel(status="finished", outer_step=9, files=["last.safetensors"], resumable=False, imported=True)
}
METRICS["models-show"] = ModelCard(
    name="maml",
    checkpoint="best",
    manifest=Manifest(
        format="nilr/checkpoint",
        format_version=1,
        nilr_version="0.1.0",
        saved_at="2026-01-01T00:00:00.000000+00:00",
        architecture=Architecture(name="conv4", arguments={"n_way": 5}),
        algorithm={"name": "maml"},
        settings={"inner_lr": 0.05, "grad_clip": None},
        data=TrainedOn(name="toy", digest="cd", image_size=84),
        outer_step=9,
        metrics={"best_val_accuracy": {"mean": 0.4, "ci95": None, "n_episodes": 1}},
        engine="explicit",
        parent=Parent(name="maml", digest="ab"),
        tensors_sha256="ef",
    ),
    n_params=2,
    rates_by_tensor=[RateRow(name="head.bias", count=2, min=-1.0, mean=0.0, max=1.0, share_negative=0.5)],
    rates_by_layer=[],
)
METRICS["models-compare"] = ModelComparison(
    models=["a@best", "b@best"], settings={"seed": {"a@best": 0, "b@best": 1}}, metrics={}, rates_by_layer={}
)
METRICS["data-ls"] = [PackRow(name="birds", bytes=10, problem="damaged")]
METRICS["data-verify"] = [PackCheck(pack="birds")]
METRICS["data-show"] = PackCard(
    name="birds", source="class folders", licence="", created_at="2026-01-01", digest="ab", image_size=84, channels=3,
    resample="bilinear", fit="crop", bytes=10, pictures=[],
    splits={"train": SplitCard(digest="cd", images=2, classes={"wren": 2})},
)  # fmt: skip
METRICS["data-compare"] = Overlap(
    a=PackName(name="a", digest="ab"), b=PackName(name="b", digest="cd"), splits=[], pairs=[]
)
METRICS["bench"] = BenchMetrics(
    attainable_flop_per_second=3e11,
    convolutions=[ConvolutionRate(convolution="3 -> 32 channels at 84 px", flop_per_second=3e11)],
    engines={"maml": {"explicit": EngineBench(update=Timing(**_TIMING), evaluation=Timing(**_TIMING))}},
    presets={
        "quick": PresetTime(
            algo="maml",
            engine="explicit",
            outer_steps=200,
            seconds_per_update=0.5,
            validations=2,
            seconds_per_validation=5.0,
            seconds=110.0,
            peak_memory_bytes=800_000_000,
        )
    },
    unavailable=["compiled"],
)
TYPES = result_types()


def make(command: str, **change: object) -> Result[Any]:
    fields: dict[str, Any] = {
        "schema": f"nilr/{command}/1",
        "command": command,
        "config": {"n_way": 5},
        "models": [ModelUsed(name="maml", checkpoint="best", digest="ab", outer_step=10, algo="maml", trained_on="cd")],
        "data": DataUsed(name="mini-imagenet", digest="cd", image_size=84, split="test"),
        "metrics": METRICS[command],
        "per_episode": {"maml": {"meta-init": [0.4]}},
        "environment": {"torch": "2.13.0"},
        "started_at": "2026-01-01T00:00:00.000000+00:00",
        "duration_seconds": 1.5,
    }
    return TYPES[command](**fields | change)


def test_every_kind_of_result_is_tested_here() -> None:
    assert set(METRICS) == set(result_types())


@pytest.mark.parametrize("command", METRICS)
def test_every_result_is_what_its_schema_says(command: str) -> None:
    jsonschema.validate(json.loads(to_json(make(command))), schemas()[command])


@pytest.mark.parametrize("command", METRICS)
def test_every_result_comes_back_from_its_json(command: str) -> None:
    result = make(command)
    assert TYPES[command].model_validate_json(to_json(result)) == result


@pytest.mark.parametrize(
    "change",
    [{"schema": "nilr/probe/2"}, {"command": "adapt"}, {"duration_seconds": None}, {"surprise": 1}, {"models": [{}]}],
)
def test_a_schema_refuses_what_is_no_result(change: dict[str, Any]) -> None:
    changed = json.loads(to_json(make("probe"))) | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, schemas()["probe"])


def test_the_keys_of_a_probe_are_the_ones_scripts_read() -> None:
    metrics = json.loads(to_json(make("probe")))["metrics"]["maml"]
    assert metrics["meta-init"] == {"accuracy": {"mean": 0.4, "ci95": None, "n_episodes": 1}, "delta": None}
    delta = {"mean": 0.0, "ci95": 0.0, "p": None, "verdict": "exactly zero"}
    assert metrics["same-task"]["delta"] == delta | dict.fromkeys(("low", "high", "d", "p_holm"))
    assert metrics["cross-task"] is None


def test_the_keys_of_a_duplicate_pair_are_the_ones_scripts_read() -> None:
    pairs = json.loads(to_json(make("prepare-data")))["metrics"]["duplicate_pairs"]
    assert pairs[0][0] == {"split": "train", "class": "n02950826", "filename": "a.jpg"}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["per_episode", "config", "environment"])
def test_nan_is_refused_wherever_it_stands(field: str, number: float) -> None:
    with pytest.raises(ValueError, match=r"JSON|finite"):
        to_json(make("probe", **{field: {"x": [0.5, number]}}))


def test_nan_is_refused_in_a_measure() -> None:
    with pytest.raises(ValidationError):
        Mean(mean=float("nan"), ci95=None, n_episodes=1)


def test_a_result_is_written_whole_in_utf8(tmp_path: Path) -> None:
    path = tmp_path / "results" / "adapt.json"
    write_result(path, make("adapt"))
    text = path.read_bytes().decode()
    assert "ß.png" in text
    assert text.endswith("}\n")
    assert json.loads(text)["command"] == "adapt"


def test_a_result_with_nan_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_result(tmp_path / "x.json", make("probe", per_episode={"x": [float("nan")]}))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"`{tmp_path}`"):
        write_result(tmp_path, make("probe"))


@pytest.mark.parametrize("command", METRICS)
def test_every_schema_is_a_valid_schema(command: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas()[command])


def test_a_name_that_is_no_utf8_is_written_as_a_pack_writes_it(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\xff.png")
    write_result(tmp_path / "x.json", make("prepare-data", notes=[name]))
    assert json.loads((tmp_path / "x.json").read_bytes())["notes"] == ["caf\\udce9\\udcff.png"]


@pytest.mark.parametrize(("older", "status"), [("complete", "finished"), ("incomplete", "interrupted")])
def test_the_status_in_an_older_result_of_an_import_is_understood(older: str, status: str) -> None:
    stored = {"outer_step": 1, "files": [], "resumable": False, "imported": True}
    assert ImportedModel.model_validate({"status": older, **stored}).status == status
