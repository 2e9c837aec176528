from __future__ import annotations

import re
from typing import Any

import pytest

from nilr.claims import CLAIMS, with_signs
from nilr.results.bench import BenchMetrics, ConvolutionRate, EngineBench, PresetTime, Timing
from nilr.results.calibrate import Anchor, CalibrateMetrics, Judged, Judging, ModelCalibration, NotComparable
from nilr.results.commands import AdaptMetrics, ImageRef, Prediction, PrepareDataMetrics, SplitCounts, TrainMetrics
from nilr.results.probe import Histogram, ModelRates, RateFigures, TensorRates
from nilr.results.records import DataUsed, Mean, ModelUsed
from nilr.results.result import Result
from tests.cli.screens import Terminal, shown


def result_of(command: str, metrics: Any, **parts: Any) -> Result[Any]:
    return Result[Any](
        schema_=f"nilr/{command}/1",
        command=command,
        config={},
        metrics=metrics,
        environment={},
        started_at="2026-01-01T00:00:00+00:00",
        duration_seconds=1.0,
        **parts,
    )


def model(name: str = "maml") -> ModelUsed:
    return ModelUsed(name=name, checkpoint="best", digest="d", outer_step=7, algo="maml", trained_on="toy")


def image(filename: str, split: str = "train") -> ImageRef:
    return ImageRef.model_validate({"split": split, "class": "n01", "filename": filename})


def test_a_probe_is_one_table_of_models_and_protocols(probe_result: Result[Any]) -> None:
    assert shown(probe_result) == [
        "maml@best (maml, update 7) on the test split of `toy`",
        "model  protocol    accuracy, %   delta to meta-init, points  d  p       episodes",
        "maml   meta-init   40.00 ± 1.00  -                           -  -       50",
        "maml   same-task   45.00 ± 1.00  +5.00 ± 0.50                -  0.0012  50",
        "maml   cross-task  38.00 ± 1.00  -2.00 ± 0.50                -  0.0012  50",
    ]


def test_a_probe_ends_with_the_signs_that_the_paper_claims(probe_result: Result[Any]) -> None:
    metrics = with_signs({"maml": CLAIMS["maml"]}, probe_result.metrics)
    lines = shown(probe_result.model_copy(update={"metrics": metrics}))
    assert [re.split(" {2,}", line) for line in lines[-3:]] == [
        ["the paper's signs", "protocol", "paper", "measured, points", "finding"],
        ["maml", "same-task", "gain", "+5.00 ± 0.50", "confirmed"],
        ["maml", "cross-task", "loss", "-2.00 ± 0.50", "confirmed"],
    ]


def test_several_differences_show_their_corrected_p_and_effect_size(probe_result: Result[Any]) -> None:
    model = probe_result.metrics["maml"]
    delta = model.same_task.delta.model_copy(update={"p_holm": 0.0024, "d": 0.5})
    metrics = {"maml": model.model_copy(update={"same_task": model.same_task.model_copy(update={"delta": delta})})}
    lines = shown(probe_result.model_copy(update={"metrics": metrics}))
    assert lines[1] == "model  protocol    accuracy, %   delta to meta-init, points  d      p (Holm)  episodes"
    assert lines[3] == "maml   same-task   45.00 ± 1.00  +5.00 ± 0.50                +0.50  0.0024    50"


def test_a_terminal_shows_units_in_titles(probe_result: Result[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    text = "\n".join(shown(probe_result, Terminal()))
    for part in ("accuracy, %", "45.00 ± 1.00", "points", "+5.00 ± 0.50"):
        assert part in text


def test_a_pack_is_shown_with_its_duplicates() -> None:
    metrics = PrepareDataMetrics(
        splits={"train": SplitCounts(classes=64, images=38_400), "val": SplitCounts(classes=16, images=9_600)},
        duplicate_pairs=[(image("a.jpg"), image("[b].jpg", "val"))],
        images_per_second=1234.5,
    )
    data = DataUsed(name="mini-imagenet", digest="abc", image_size=84)
    assert shown(result_of("prepare-data", metrics, data=data)) == [
        "split  classes  images",
        "train  64       38400",
        "val    16       9600",
        "pack `mini-imagenet`, 84 px, content digest abc",
        "1 pair of images with identical pixels, 1 across splits:",
        "  train/n01/a.jpg = val/n01/[b].jpg",
        "1234 images/s",
    ]


def test_long_lists_are_cut_with_their_number() -> None:
    pairs = [(image("a.jpg"), image("b.jpg"))] * 25
    metrics = PrepareDataMetrics(splits={}, duplicate_pairs=pairs)
    assert shown(result_of("prepare-data", metrics))[-1] == "  ... and 5 more, in the result file"


def test_a_training_ends_with_its_figures() -> None:
    metrics = TrainMetrics(
        outer_step=200,
        query_loss=1.5,
        accuracy_before=0.2,
        accuracy_after=0.4,
        best_outer_step=100,
        best_val_accuracy=Mean(mean=0.41, ci95=0.02, n_episodes=50),
        last_val_accuracy=Mean(mean=0.39, ci95=None, n_episodes=1),
        share_negative=None,
        seconds_per_update=0.25,
    )
    assert shown(result_of("meta-train", metrics, models=[model("metasgd-2")])) == [
        "metasgd-2",
        "updates                           200",
        "query loss, last logged update    1.5",
        "query accuracy before adaptation  20.00 %",
        "query accuracy after adaptation   40.00 %",
        "validation accuracy, best         41.00 ± 2.00 %",
        "  at update                       100",
        "validation accuracy, last         39.00 %",
        "share of negative rates           -",
        "seconds per update                0.25",
    ]


def test_rates_of_each_grain_have_a_table_of_their_own() -> None:
    figures = RateFigures(
        count=2,
        mean=0.25,
        std=0.5,
        quantiles={"0.05": -0.25, "0.95": 0.75},
        share_negative=0.5,
        histogram=Histogram(edges=[-1.0, 0.0, 1.0, 2.0], counts=[1, 0, 1]),
        step_norm=Mean(mean=0.5, ci95=None, n_episodes=1),
    )
    tensor = TensorRates(layer="head", kind="head bias", no_signal=0, **figures.model_dump())
    rates = ModelRates(
        inner_steps=1,
        all=figures,
        kinds={"head bias": figures},
        layers={"head": figures},
        tensors={"head.bias": tensor},
        left_out=[],
        not_moved=[],
    )
    lines = [line for line in shown(result_of("rates", {"maml": rates}, models=[model()])) if line]
    assert [re.split(" {2,}", line)[0] for line in lines[1:]] == [
        cell
        for table in ("inner rates", "on real gradients")
        for cell in (
            *(table, "all"),
            *(f"{table} by kind", "head bias"),
            *(f"{table} by layer", "head"),
            *(f"{table} by tensor", "head.bias"),
        )
    ]


def test_adapt_shows_before_and_after_and_each_prediction() -> None:
    metrics = AdaptMetrics(
        classes=["cat", "dog"],
        support_images=2,
        query_images=1,
        support_loss_before=0.7,
        support_loss_after=0.1,
        accuracy_before=None,
        accuracy_after=None,
        nearest_accuracy_after=0.5,
        predictions=[
            Prediction(
                image="x.png",
                label=None,
                before="dog",
                after="cat",
                nearest_before=None,
                nearest_after="dog",
                probabilities={"cat": 0.75, "dog": 0.25},
            )
        ],
    )
    assert shown(result_of("adapt", metrics, models=[model()])) == [
        "maml@best                before  after",
        "support loss             0.7     0.1",
        "query accuracy, head     -       -",
        "query accuracy, nearest  -       50.00 %",
        "image  label  head before  head after  probability, %  nearest before  nearest after",
        "x.png  -      dog          cat         75.00           -               dog",
    ]


def test_a_quiet_screen_shows_nothing(probe_result: Result[Any]) -> None:
    assert shown(probe_result, quiet=True) == []


def make_bench() -> Result[Any]:
    update = Timing(
        episodes=4,
        inner_steps=5,
        seconds=0.5,
        seconds_fastest=0.4,
        seconds_slowest=0.6,
        episodes_per_second=8.0,
        flop=88_700_000_000,
        share_of_attainable=0.5913,
        memory_before_bytes=250_000_000,
        peak_memory_bytes=700_000_000,
    )
    metrics = BenchMetrics(
        attainable_flop_per_second=3e11,
        convolutions=[ConvolutionRate(convolution="3 -> 32 channels at 84 px", flop_per_second=3e11)],
        engines={
            "maml": {
                "explicit": EngineBench(update=update, evaluation=update),
                "batched": EngineBench(update=update, update_uncaptured=update, evaluation=update),
            }
        },
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
        unavailable=[],
    )
    return result_of("bench", metrics)


def test_a_bench_at_80_columns_names_engine_and_task_beside_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    rows = [line.split() for line in shown(make_bench(), Terminal())]
    assert [row[:3] for row in rows if row[-1:] == ["700"]] == [
        ["update", "4x5", "explicit"],
        ["update", "4x5", "batched"],
        ["update", "4x5", "batched,"],
        ["evaluation", "4x5", "explicit"],
        ["evaluation", "4x5", "batched"],
    ]


def test_a_bench_shows_engines_by_task_the_convolutions_and_the_presets() -> None:
    assert shown(make_bench()) == [
        "algorithm  task            engine               seconds  of all rounds  episodes/s  share, %  peak MB",
        "maml       update 4x5      explicit             0.5      0.4-0.6        8           59.13     700",
        "maml       update 4x5      batched              0.5      0.4-0.6        8           59.13     700",
        "maml       update 4x5      batched, uncaptured  0.5      0.4-0.6        8           59.13     700",
        "maml       evaluation 4x5  explicit             0.5      0.4-0.6        8           59.13     700",
        "maml       evaluation 4x5  batched              0.5      0.4-0.6        8           59.13     700",
        "plain convolutions, GFLOP/s: 300 (3 -> 32 channels at 84 px)",
        "preset  engine    updates  s/update  validations  s each  in all      peak MB",
        "quick   explicit  200      0.5       2            5       1 min 50 s  800",
    ]


def make_calibration() -> Result[Any]:
    finn = Anchor(
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
        inner_steps=5,
        eval_inner_steps=10,
    )
    features = finn.model_copy(update={"source": "Raghu et al. 2020", "measured": "features", "ci95": None})
    head = Judging(measured="head", n_query=1, inner_steps=10, batch_stats="apart")
    votes = Judging(measured="features", n_query=15, inner_steps=None, batch_stats="apart", assumed=["n_query"])
    accuracy = Mean(mean=0.46, ci95=0.01, n_episodes=600)
    judged = [
        Judged(anchor=finn, judging=head, accuracy=accuracy, difference=-0.027, band=0.0209, verdict="below"),
        Judged(anchor=features, judging=votes, accuracy=accuracy, difference=-0.027, band=0.0141, verdict="below"),
    ]
    other = NotComparable(anchor=finn.model_copy(update={"filters": 64}), reasons=["64 filters, not 32", "ensemble"])
    metrics = CalibrateMetrics(models={"maml": ModelCalibration(judged=judged, not_comparable=[other])})
    return result_of("calibrate", metrics)


def test_a_calibration_shows_verdicts_with_their_band_and_reasons() -> None:
    assert [re.split(" {2,}", line) for line in shown(make_calibration())] == [
        ["model", "anchor", "published, %", "measured, %", "difference, band, points", "verdict", "evaluated with"],
        [
            *("maml", "Finn et al. 2017, conv4-32", "48.70 ± 1.84", "46.00 ± 1.00", "-2.70 ± 2.09", "below"),
            "1 query, 10 steps, apart",
        ],
        [
            *("maml", "Raghu et al. 2020, conv4-32, maml features", "48.70", "46.00 ± 1.00", "-2.70 ± 1.41"),
            *("below", "15 queries?, apart"),
        ],
        ["model", "not comparable", "published, %", "because"],
        ["maml", "Finn et al. 2017, conv4-64", "48.70 ± 1.84", "64 filters, not 32; ensemble"],
    ]


def test_a_calibration_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown(make_calibration(), Terminal())]
    assert max(map(len, lines)) <= 80
    assert {"46.00", "below", "-2.70", "queries?,", "ensemble"} <= set(" ".join(lines).split())
