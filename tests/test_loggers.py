"""Loggers of a training: each is read back by a reader of its own library, and compared with the history."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nilr.config import meta_train as config
from nilr.config.meta_train import TrainSettings
from nilr.errors import NilrError, UsageError
from nilr.loggers import LOGGERS, Figures, Run
from nilr.recipes import meta_train
from nilr.recipes.meta_train.dry_run import dry_run
from nilr.recipes.meta_train.training import Training
from nilr.reporting import SilentReporter
from tests.recipes.listening import Listening
from tests.recipes.meta_train.test_meta_train import contents

pytestmark = pytest.mark.usefixtures("pack", "one_thread")

Points = dict[str, list[tuple[int, float]]]
QUICK: dict[str, Any] = {
    "algo": "metasgd", "name": "m", "filters": 4, "n_way": 3, "n_query": 2, "meta_batch_size": 2,
    "eval_every": 2, "eval_episodes": 3, "log_every": 1, "save_every": 2, "outer_steps": 6,
}  # fmt: skip
FINAL = {
    "query_loss", "accuracy_before", "accuracy_after", "best_outer_step", "best_val_accuracy", "last_val_accuracy",
    "share_negative", "skipped_updates", "seconds_per_update",
}  # fmt: skip


class Kill(BaseException):
    """Ends a training without a save."""


def train(reporter: SilentReporter | None = None, **settings: Any) -> Any:
    return meta_train.run(TrainSettings(**QUICK | settings), reporter or SilentReporter())


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int, **settings: Any) -> None:
    """Train, and end as a kill does, after some update that is logged to the history and not saved."""
    log = Training.log

    def log_and_end(training: Training, line: Mapping[str, Any]) -> None:
        log(training, line)
        if line["outer_step"] == step:
            raise Kill

    monkeypatch.setattr(Training, "log", log_and_end)
    with pytest.raises(Kill):
        train(**settings)
    monkeypatch.setattr(Training, "log", log)


def expected(home: Path, model: str = "m") -> Points:
    """Return the figures of a history."""
    points: Points = {}
    for text in (home / "models" / model / "history.jsonl").read_text().splitlines():
        line = json.loads(text)
        step = line.pop("outer_step")
        line |= {f"share_negative_by_layer/{of}": n for of, n in line.pop("share_negative_by_layer", {}).items()}
        if "val_accuracy" in line:
            line["val_accuracy"] = line["val_accuracy"]["mean"]
        for name in line.keys() - {"outer_steps"}:
            points.setdefault(name, []).append((step, line[name]))
    return points


class Memory:
    """A logger that keeps the points of each run; `fails` makes one of its calls raise."""

    runs: dict[str, list[Figures]]
    closed: list[bool]
    fails = ""

    def __init__(self, run: Run) -> None:
        self.is_new, self.place = run.identifier is None, "memory"
        self.identifier = run.identifier or f"run-{len(self.runs)}"
        self.runs.setdefault(self.identifier, [])
        self._raise_in("open")

    def log(self, lines: Sequence[Figures]) -> None:
        self._raise_in("log")
        self.runs[self.identifier] += lines

    def close(self, *, complete: bool) -> None:
        self._raise_in("close")
        self.closed.append(complete)

    def _raise_in(self, call: str) -> None:
        if self.fails == call:
            raise OSError(28, "No space left on device")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> type[Memory]:
    kept = type("Kept", (Memory,), {"runs": {}, "closed": []})
    monkeypatch.setitem(LOGGERS, "json", kept)  # a module that is installed everywhere
    return kept


def points(lines: Sequence[Figures]) -> Points:
    found: Points = {}
    for step, values in lines:
        for name, value in values.items():
            found.setdefault(name, []).append((step, value))
    return found


def check_points(found: Points, home: Path, model: str = "m") -> None:
    """Check that a run has the figures of the history, each once and in order, and those of the end."""
    final = {name.partition("/")[2]: found.pop(name) for name in list(found) if name.startswith("final/")}
    wanted = expected(home, model)
    assert found.keys() == wanted.keys()
    for name, of_history in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in of_history], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in of_history], rel=1e-6)
    assert final.keys() == FINAL
    best = max(value for _, value in wanted["val_accuracy"])
    assert final["best_val_accuracy"] == [(QUICK["outer_steps"], pytest.approx(best, rel=1e-6))]


def test_the_settings_name_all_loggers() -> None:
    assert config.LOGGERS == tuple(LOGGERS) == ("tensorboard", "wandb", "mlflow")


@pytest.mark.parametrize("check", [dry_run, meta_train.run])
def test_an_unknown_logger_and_one_without_its_library_are_errors_before_the_work(
    check: Callable[..., Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="unknown logger `tensorbord`") as unknown:
        check(TrainSettings(log=("wandb,tensorbord",) if importlib.util.find_spec("wandb") else ("tensorbord",)), None)
    assert "did you mean `tensorboard`" in str(unknown.value.hint)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for name in LOGGERS:
        with pytest.raises(UsageError, match=f"--log {name} needs the package `{name}`") as missing:
            check(TrainSettings(log=(name,)), None)
        assert missing.value.hint == f"install it: pip install 'nilr[{name}]'"
    assert not (home / "models").exists()


def test_a_folder_of_the_name_of_a_library_is_not_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_such_logger").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(LOGGERS, "no_such_logger", Memory)
    with pytest.raises(UsageError, match="not installed"):
        train(log=("no_such_logger",))


def test_a_run_has_the_figures_of_the_history_and_the_model_is_that_of_a_training_without(
    home: Path, memory: type[Memory]
) -> None:
    train(name="plain")
    train(log=("json",))
    check_points(points(memory.runs["run-0"]), home)
    assert memory.closed == [True]
    assert contents(home / "models" / "m") == contents(home / "models" / "plain")


def test_several_seeds_have_a_run_each(home: Path, memory: type[Memory]) -> None:
    train(log=("json",), seeds=2)
    for number in (0, 1):
        check_points(points(memory.runs[f"run-{number}"]), home, f"m-seed{number}")


@pytest.mark.parametrize("step", range(1, 7))
def test_a_killed_training_continues_its_run_and_logs_no_step_twice(
    home: Path, memory: type[Memory], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    kill_at(monkeypatch, step, log=("json",))
    assert memory.closed == [False]
    train(log=("json",), resume="auto")
    *_, last = memory.runs
    assert last == ("run-1" if step <= 2 else "run-0")  # a model that was never saved starts anew
    check_points(points(memory.runs[last]), home)
    before = [*memory.runs[last]]
    train(log=("json",), resume="auto")  # there is nothing left to do
    assert memory.runs[last] == before


def test_a_logger_that_is_added_later_starts_with_the_history(
    home: Path, memory: type[Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_at(monkeypatch, 5)
    train(log=("json",), resume="auto")
    check_points(points(memory.runs["run-0"]), home)


@pytest.mark.parametrize("call", ["log", "close"])
def test_a_logger_that_fails_is_switched_off_with_one_warning_and_changes_nothing(
    home: Path, memory: type[Memory], call: str
) -> None:
    train(name="plain")
    memory.fails, heard = call, Listening()
    train(heard, log=("json",))
    assert [note for note in heard.notes if "failed" in note] == [
        "model `m`: json failed and logs no more: [Errno 28] No space left on device"
    ]
    assert contents(home / "models" / "m") == contents(home / "models" / "plain")


def test_a_logger_that_cannot_open_ends_a_new_training_and_not_a_resumed_one(
    home: Path, memory: type[Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.fails = "open"
    with pytest.raises(NilrError, match=r"--log json: .*No space left on device"):
        train(log=("json",))
    assert list((home / "models").iterdir()) == []
    kill_at(monkeypatch, 5)
    heard = Listening()
    result = train(heard, log=("json",), resume="auto")
    assert result.metrics.outer_step == 6
    assert any("json failed and logs no more" in note for note in heard.notes)


# Each returns the figures and the settings of the newest run of a model.


def read_tensorboard(logs: Path, model: str) -> tuple[Points, dict[str, Any]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logs / "tensorboard" / model), size_guidance={"scalars": 0})
    events.Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    (table, *_) = events.Tensors("settings/text_summary")
    rows = table.tensor_proto.string_val[0].decode().splitlines()[2:]
    return scalars, {row.split("|")[1].strip(): json.loads(row.split("|")[2]) for row in rows}


def read_mlflow(logs: Path, model: str) -> tuple[Points, dict[str, Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{logs}/mlflow.db")
    experiment = client.get_experiment_by_name("nilr")
    run, *_ = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == model]
    assert run.info.status == "FINISHED"
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    found = {name: [(metric.step, metric.value) for metric in history] for name, history in histories.items()}
    return found, {name: int(text) if text.isdigit() else text for name, text in run.data.params.items()}


def read_wandb(logs: Path, model: str) -> tuple[Points, dict[str, Any]]:
    from wandb.proto.wandb_internal_pb2 import Record

    runs: dict[str, tuple[Points, dict[str, Any]]] = {}
    for path in sorted(logs.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        records = [Record.FromString(data) for data in leveldb_records(path.read_bytes()[7:], skipped=7)]
        (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        found, settings = runs.setdefault(run.run_id, ({}, {})) if run.display_name == model else ({}, {})
        for record in records:
            update = record.config.update if record.WhichOneof("record_type") == "config" else []
            settings |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in update}
            if record.WhichOneof("record_type") == "history":
                items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                for name in items.keys() - {"outer_step"}:
                    if not name.startswith("_"):
                        found.setdefault(name, []).append((items["outer_step"], items[name]))
    return [*runs.values()][-1]


def leveldb_records(data: bytes, skipped: int) -> list[bytes]:
    """Return the records of a log of LevelDB, from which a header was `skipped`: blocks of 32 KiB of parts of records.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    records, at, block = [b""], 0, 32768
    while at + 7 <= len(data):
        left = block - (at + skipped) % block
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if left < 7 or kind == 0:
            at += left
            continue
        records[-1] += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(b"")
    return records[:-1]


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow}


@pytest.mark.parametrize("name", LOGGERS)
@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_the_library_reads_back_the_figures_and_settings_of_a_killed_and_resumed_training(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip(name, reason=f"the package `{name}` is not installed: make loggers")
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "WANDB_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    train(name="plain")
    kill_at(monkeypatch, 5, log=(name,))
    train(log=(name,), resume="auto")
    found, settings = READERS[name](home / "logs", "m")
    check_points(found, home)
    assert contents(home / "models" / "m") == contents(home / "models" / "plain")
    assert settings.items() >= {"model": "m", "algo": "metasgd", "filters": 4, "data": "mini-imagenet"}.items()
    assert {path.name for path in tmp_path.iterdir()} == {"home"}  # nothing beside the store
    train(log=(name,), force=True)  # a new model of the same name is a new run
    check_points(READERS[name](home / "logs", "m")[0], home)
