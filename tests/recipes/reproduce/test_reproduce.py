from __future__ import annotations

import dataclasses
import html
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nilr.checkpoint import read_manifest
from nilr.claims import DEMONSTRATION
from nilr.config.experiments import EXPERIMENTS
from nilr.config.models import ImportSettings
from nilr.config.reproduce import ReproduceSettings
from nilr.errors import Interrupted, StoreError
from nilr.recipes import meta_train, probe, rates, report, reproduce
from nilr.recipes.meta_train.progress import TrainingProgress
from nilr.recipes.models import importing as models_import
from nilr.recipes.reproduce.plan import ExperimentPlan, measurement_digest
from nilr.report.contents import KINDS
from nilr.reporting import SilentReporter
from nilr.results.records import DataUsed
from nilr.results.reproduce import ReproduceMetrics
from nilr.results.result import Result
from nilr.store import Store
from tests.recipes.listening import Listening
from tests.recipes.reproduce.conftest import tiny

pytestmark = [pytest.mark.usefixtures("one_thread")]

N_CHOICES = len(EXPERIMENTS["demo"].choices)
RUNS = ["maml", "metasgd", "maml-1step", "metasgd-nonneg"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that records each training, probe and measurement of rates."""
    made: list[str] = []

    def counting(module: Any, word: str) -> None:
        inner = module.run

        def run(settings: Any, reporter: Any) -> Any:
            made.append(f"{word} {settings.name if word == 'train' else settings.models[0]}")
            return inner(settings, reporter)

        monkeypatch.setattr(module, "run", run)

    counting(meta_train, "train")
    counting(probe, "probe")
    counting(rates, "rates")
    return made


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the report, which is slow; return a list of the settings it is called with."""
    asked: list[Any] = []
    monkeypatch.setattr(report, "run", lambda settings, _reporter: asked.append(settings))
    return asked


def run(settings: ReproduceSettings) -> tuple[Result[ReproduceMetrics], list[str]]:
    reporter = Listening()
    return reproduce.run(settings, reporter), reporter.notes


def test_an_interrupted_experiment_continues_and_repeats_nothing(
    home: Path, calls: list[str], reports: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(home)
    whole, stopped = probe.run, []

    def stopping(asked: Any, reporter: Any) -> Any:
        if asked.models == ("demo-metasgd-s0",) and not stopped:
            stopped.append(asked)
            raise Interrupted(signal.SIGINT)
        return whole(asked, reporter)

    monkeypatch.setattr(probe, "run", stopping)
    with pytest.raises(Interrupted) as interrupted:
        run(settings)
    assert interrupted.value.hint == "finished work is kept; run the same command again to continue"
    again = ["probe demo-maml-s0"] * N_CHOICES
    assert calls == ["train demo-maml-s0", "probe demo-maml-s0", "rates demo-maml-s0", *again, "train demo-metasgd-s0"]

    calls.clear()
    result, notes = run(settings)
    assert calls[0] == "probe demo-metasgd-s0"
    assert [call for call in calls if call.startswith("train")] == [
        "train demo-maml-1step-s0",
        "train demo-metasgd-nonneg-s0",
    ]
    assert notes[0] == "to do: 3 of 4 models, 1 job at a time, about 1 minute"
    assert list(result.metrics.runs) == RUNS
    assert [sign.finding for sign in result.metrics.signs] == ["demonstration"] * 4  # the images are generated
    assert result.notes[-1].startswith("A demonstration: ")
    assert len(result.metrics.runs["metasgd"].edits_to_learned) == 8
    for choice in EXPERIMENTS["demo"].choices:
        asked = [(sign.run, sign.protocol) for sign in result.metrics.choices[choice]]
        assert asked == [(sign.run, sign.protocol) for sign in result.metrics.signs]

    folder = home / "reproduce" / "demo"
    assert (folder / "reproduce.json").is_file()
    assert [made.out.name for made in reports] == ["report.html", "report.md"]
    assert {path.name for path in reports[0].results} >= {"reproduce.json"}
    assert len(list(home.glob("results/*-reproduce-*.json"))) == 1

    euclidean = next(folder.glob("demo-maml-s0.probe-euclidean-2-episodes-*.json"))
    named_without_question = euclidean.name.replace("euclidean-2-episodes-", "")
    euclidean.rename(folder / named_without_question)  # as earlier versions did
    calls.clear()
    again, notes = run(settings)
    assert calls == []
    assert notes[0] == "all trainings and probes are finished"
    assert (again.metrics.runs, again.metrics.choices) == (result.metrics.runs, result.metrics.choices)
    assert named_without_question in again.metrics.files

    run(tiny(home, n_episodes=3))
    of_a_claimed = ["probe", "rates", *["probe"] * N_CHOICES]
    assert [call.split()[0] for call in calls] == [*of_a_claimed * 2, *["probe", "rates"] * 2]


def test_a_finished_experiment_is_concluded_again_only_if_something_has_changed(
    home: Path, finished: Result[ReproduceMetrics], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def draw(settings: Any, _reporter: Any) -> None:
        drawn.append(settings.out.name)
        settings.out.touch()

    monkeypatch.setattr(report, "run", draw)
    first, _ = run(tiny(home))
    folder, both = home / "reproduce" / "demo", ["report.html", "report.md"]
    assert drawn == both

    def run_again() -> tuple[bool, list[str]]:
        """Return whether nothing had changed, and what was drawn."""
        calls.clear()
        drawn.clear()
        _, notes = run(tiny(home))
        assert calls == []
        unchanged = "all trainings and probes are finished, and nothing has changed since the report: "
        assert notes[0].startswith("all trainings and probes are finished")
        return notes[0] == f"{unchanged}{folder / 'report.html'}", drawn

    assert run_again() == (True, [])
    assert run(tiny(home))[0] == first
    (folder / "report.md").unlink()
    assert run_again() == (False, both)
    assert run_again() == (True, [])
    changed = next(folder.glob("demo-metasgd-s0.probe-*.json"))
    changed.write_text(changed.read_text() + "\n")
    assert run_again() == (False, both)
    (folder / "reproduce.json").write_text("{")
    assert run_again() == (False, both)
    monkeypatch.setattr(reproduce, "__version__", "another")
    assert run_again() == (False, both)
    assert run_again() == (True, [])
    changed.unlink()
    run(tiny(home))
    assert calls == ["probe demo-metasgd-s0"]


def test_models_that_were_imported_are_not_trained_again_and_give_the_same_numbers(
    home: Path, finished: Result[ReproduceMetrics], calls: list[str], reports: list[Any], tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    shutil.copytree(home / "models", copies, ignore=shutil.ignore_patterns("training.safetensors", "demo-maml-1step*"))
    other = tmp_path / "other"
    models_import.run(ImportSettings(home=other, sources=tuple(sorted(copies.iterdir()))), SilentReporter())
    again, notes = run(tiny(other))
    assert next(note for note in notes if note.startswith("to do")).startswith("to do: 4 of 4 models, ")
    assert [call for call in calls if call.startswith("train")] == ["train demo-maml-1step-s0"]
    assert again.metrics == finished.metrics
    assert again.models == finished.models
    with pytest.raises(StoreError, match="is trained with --outer-steps 2, not with 1"):
        run(tiny(other, outer_steps=1))


def test_a_training_whose_last_validation_was_interrupted_is_not_finished(
    home: Path, calls: list[str], reports: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = EXPERIMENTS["demo"]
    validated = {**demo.train, "eval_every": 2, "eval_episodes": 2}
    maml = demo.runs[0]
    changed = dataclasses.replace(demo, train=validated, runs=(maml,), choices={}, closer={})
    monkeypatch.setitem(EXPERIMENTS, "demo", changed)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "validated", lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            run(tiny(home))
    model = home / "models" / "demo-maml-s0"
    assert read_manifest(model / "last.safetensors").outer_step == 2
    assert not (model / "best.safetensors").exists()
    calls.clear()
    _, notes = run(tiny(home))
    assert calls[0] == "train demo-maml-s0"
    assert any(note.startswith("model `demo-maml-s0`: resumes after update 2; ") for note in notes)
    assert (model / "best.safetensors").exists()
    assert "probe demo-maml-s0" in calls


@pytest.mark.usefixtures("reports", "finished")
def test_a_model_with_other_settings_is_not_used(home: Path) -> None:
    with pytest.raises(StoreError, match="is trained with --filters 4, not with 5"):
        reproduce.run(tiny(home, filters=5), SilentReporter())


def test_a_missing_pack_is_one_error_with_the_command_that_makes_it(home: Path) -> None:
    with pytest.raises(StoreError, match="no pack `mini-imagenet-32`") as error:
        reproduce.run(ReproduceSettings(home=home, preset="cpu"), SilentReporter())
    assert error.value.hint is not None
    assert f"`nilr prepare-data SOURCE... --name mini-imagenet-32 --image-size 32 --home {home}`" in error.value.hint


@pytest.mark.slow
def test_the_demo_ends_with_a_page_of_figures_and_the_verdict_on_the_command_line(tmp_path: Path) -> None:
    line = "reproduce --preset demo --outer-steps 30 --n-episodes 8 --filters 4 --threads 1"
    command = [sys.executable, "-m", "nilr", *line.split()]
    started = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with started:
        assert started.stderr is not None
        for said in started.stderr:
            if "demo-metasgd-s0" in said:
                started.send_signal(signal.SIGINT)
                break
        rest = started.stderr.read()
    assert started.returncode == 130
    assert "hint: finished work is kept; run the same command again to continue" in rest
    folder = tmp_path / "nilr-reproduce" / "reproduce" / "demo"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("demo-maml-*")}
    assert len(before) == 3 * (3 + N_CHOICES)  # of each seed its training, probe, rates and probes under other choices

    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    paths = [
        f"report: {folder / 'report.html'}",
        f"report: {folder / 'report.md'}",
        f"result: {folder / 'reproduce.json'}",
    ]
    assert done.stderr.splitlines()[-4:] == [DEMONSTRATION, *paths]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert html.escape(DEMONSTRATION) in page
    assert not any(word in page for word in ("confirmed", "refuted"))
    left_out = re.findall("<dt>(.*?)</dt>", page.partition('id="left-out"')[2].partition("</section>")[0])
    drawn = {path.stem for path in (folder / "report-figures").glob("*.svg")}
    assert drawn == {kind.name for kind in KINDS if html.escape(kind.title) not in left_out}
    assert drawn >= {"signs", "choices", "protocols", "seeds", "training", "share-negative", "rates"}


def test_the_digest_of_a_measurement_depends_on_settings_model_and_pack_but_not_on_the_machine() -> None:
    from nilr.config.evaluation import ProbeSettings

    asked = ProbeSettings(n_episodes=5)
    digest = measurement_digest(asked, ["model"], "pack")
    assert digest == measurement_digest(
        ProbeSettings(n_episodes=5, threads=1, device="cpu", episode_chunk=1), ["model"], "pack"
    )
    assert digest != measurement_digest(ProbeSettings(n_episodes=6), ["model"], "pack")
    assert digest != measurement_digest(asked, ["other"], "pack")
    assert digest != measurement_digest(asked, ["model"], "other")


def test_the_report_has_the_rates_of_models_with_a_dot_in_their_names(
    home: Path, reports: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = EXPERIMENTS["demo"]
    metasgd = tuple(run for run in demo.runs if run.name == "metasgd")
    monkeypatch.setitem(EXPERIMENTS, "demo", dataclasses.replace(demo, runs=metasgd, choices={}, closer={}))
    run(tiny(home, name="v0.1"))
    asked = [path.name.rpartition("-")[0] for path in reports[0].results[1:]]
    assert asked == ["v0.1-metasgd-s0.probe-2-episodes", "v0.1-metasgd-s0.rates"]


def test_other_initial_rates_have_two_seeds_less_and_at_least_one(home: Path) -> None:
    def seeds(settings: ReproduceSettings) -> dict[str, list[int]]:
        data = DataUsed(name="x", digest="x", image_size=32)
        found: dict[str, list[int]] = {}
        for model in ExperimentPlan(settings, Store(home), "x", data).models:
            found.setdefault(model.run.name, []).append(model.seed)
        return found

    by_default, five = seeds(ReproduceSettings()), seeds(ReproduceSettings(seeds=5, seed=1))
    assert by_default["metasgd"] == [0, 1, 2]
    assert by_default["metasgd-init-draw"] == [0]
    assert five["metasgd-nonneg"] == [1, 2, 3, 4, 5]
    assert five["metasgd-init-0.05"] == [1, 2, 3]
    assert seeds(ReproduceSettings(seeds=1))["metasgd-init-0.001"] == [0]
    assert seeds(ReproduceSettings(seeds=(7, 2, 9)))["metasgd"] == [7, 2, 9]
