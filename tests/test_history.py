import json
import os
import threading
from pathlib import Path

import pytest

from nilr.errors import CheckpointError, StoreError
from nilr.history import History, find_failure, read_history


def lines(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]


def test_lines_that_a_resumed_training_writes_again_are_removed(tmp_path: Path) -> None:
    history = History(tmp_path)
    for step in (2, 4, 6, 8):
        history.append({"outer_step": step, "query_loss": 1.0})
        history.append({"outer_step": step, "val_accuracy": {"mean": 0.5}})
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"outer_step": 9, "query')
    # stopped after update 6, before that update's validation was over
    history.trim(outer_step=6, validated_at=4, outer_steps=8)
    assert [(line["outer_step"], "val_accuracy" in line) for line in lines(tmp_path)] == [
        (2, False),
        (2, True),
        (4, False),
        (4, True),
        (6, False),
    ]


def test_the_error_that_ended_a_training_is_kept_until_it_resumes(tmp_path: Path) -> None:
    assert find_failure(tmp_path) is None
    history = History(tmp_path)
    history.append({"outer_step": 4, "failed": "x" * 3000})
    assert find_failure(tmp_path) == "x" * 3000
    history.trim(outer_step=4, validated_at=4, outer_steps=8)
    assert find_failure(tmp_path) is None
    (tmp_path / "history.jsonl").write_text('{"outer_step": 4, "failed": "x"}')  # an unfinished line
    assert find_failure(tmp_path) is None
    (tmp_path / "history.jsonl").write_text("{\n")
    assert find_failure(tmp_path) is None


def test_a_directory_that_is_gone_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"history\.jsonl"):
        History(tmp_path / "gone").append({"outer_step": 1})


BROKEN = {
    "no JSON": "outer_step: 1\n",
    "a list": "[1]\n",
    "no update": '{"query_loss": 1.0}\n',
    "an update that is text": '{"outer_step": "1"}\n',
    "a negative update": '{"outer_step": -1}\n',
    "NaN": '{"outer_step": 2, "query_loss": NaN}\n',
    "a number beyond any": '{"outer_step": 2, "share_negative": 1e400}\n',
    "a share that is text": '{"outer_step": 2, "share_negative_by_layer": {"head": "many"}}\n',
    "a validation without a mean": '{"outer_step": 2, "val_accuracy": {"ci95": 0.1}}\n',
    "deep nesting": '{"outer_step": ' + "[" * 100_000 + "\n",
    "a number of many digits": '{"outer_step": ' + "9" * 10_000 + "}\n",
    "a line without end": '{"outer_step": 2, "note": "' + "x" * 2**21,
    "no text": "\udcff\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_invalid_line_is_an_error_with_its_number(tmp_path: Path, what: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"outer_step": 1}\n' + BROKEN[what], encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CheckpointError) as caught:
        list(read_history(path))
    assert caught.value.message.startswith(f"`{path}`, line 2: ")
    assert "\n" not in caught.value.message


def test_lines_are_read_and_a_truncated_final_line_is_skipped(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.append({"outer_step": 2, "query_loss": 1.5, "share_negative_by_layer": {"head": 0.25}})
    history.append({"outer_step": 2, "val_accuracy": {"mean": 0.5, "ci95": None, "n_episodes": 1}})
    history.append({"outer_step": 3, "skipped": "the query loss is nan"})
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"outer_step": 9, "query')
    first, validated, skipped = read_history(tmp_path / "history.jsonl")
    assert (first.outer_step, first.query_loss, first.share_negative_by_layer) == (2, 1.5, {"head": 0.25})
    assert validated.val_accuracy is not None
    assert validated.val_accuracy.mean == 0.5
    assert skipped.skipped == "the query loss is nan"


@pytest.mark.parametrize("kind", ["dangling link", "link", "pipe", "directory"])
def test_a_history_that_is_not_a_regular_file_is_an_error(kind: str, tmp_path: Path) -> None:
    path, outside = tmp_path / "history.jsonl", tmp_path / "outside"
    if kind == "link":
        outside.write_bytes(b'{"outer_step": 1}\n')
    if kind == "pipe":
        os.mkfifo(path)
        held = os.open(path, os.O_RDWR)  # else whoever opened it would wait for ever
        os.write(held, b'{"outer_step": 1}\n' * 2)
        closing = threading.Timer(0.2, os.close, [held])
        closing.start()
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(outside)
    for use in (
        lambda: History(tmp_path).trim(outer_step=1, validated_at=0, outer_steps=1),
        lambda: list(read_history(path)),
    ):
        with pytest.raises(CheckpointError, match=r"history\.jsonl` is not a regular file"):
            use()
    if kind == "pipe":
        closing.join()
