from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import nilr
from nilr.errors import Interrupted, NilrError
from nilr.recipes.common.processes import Child, end
from nilr.signals import unwinding

ROOT = Path(nilr.__file__).parents[1]


@contextlib.contextmanager
def child(target: Any, *arguments: object) -> Iterator[Child]:
    """Start a child; its target needs no import of torch."""
    with contextlib.closing(Child("a test", target, *arguments)) as started:
        yield started


def ignore_sigterm(connection: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send("ready")
    time.sleep(60)


def test_a_child_runs_its_target_with_the_connection_and_the_arguments() -> None:
    with child(Connection.send, {"a": 1}) as started:
        assert started.receive() == {"a": 1}
        assert started.process.wait() == 0


@pytest.mark.parametrize("here", ["", "absolute"], ids=["python -c", "python -m"])
def test_a_child_runs_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    for name in ("random.py", "pickle.py", "socket.py", "nilr/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("import pathlib\npathlib.Path(__file__).with_suffix('.executed').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [here and str(tmp_path), *sys.path])
    with child(Connection.send, "done") as started:
        assert started.receive() == "done"
    assert not list(tmp_path.rglob("*.executed"))


def test_a_child_finds_nilr_if_the_working_directory_is_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path if Path(entry).absolute() != ROOT)])
    with child(Connection.send, "done") as started:
        assert started.receive() == "done"


def test_a_child_that_is_killed_is_an_error_with_its_task_and_the_signal() -> None:
    with child(Connection.recv) as started:
        started.process.kill()
        with pytest.raises(NilrError, match="the process for a test was ended by SIGKILL"):
            started.receive()


def test_a_child_that_exits_is_an_error_with_its_status() -> None:
    with child(Connection.recv) as started:
        started.send("and no further message")
        with pytest.raises(NilrError, match="the process for a test ended with status 0"):
            started.receive()


def test_a_child_ends_when_the_parent_closes_the_connection() -> None:
    with child(Connection.recv) as started:
        started.connection.close()
        assert started.process.wait(30) == 0


def test_a_signal_while_children_are_ending_kills_them() -> None:
    children = [Child("a test", ignore_sigterm) for _ in range(2)]
    for started in children:
        assert started.receive() == "ready"
    began = time.monotonic()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Interrupted), unwinding():
        end(children)
    assert time.monotonic() - began < 10
    assert [started.process.returncode for started in children] == [-signal.SIGKILL] * 2
