from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nilr
from nilr.errors import Interrupted, NilrError
from nilr.recipes.common import processes
from nilr.recipes.common.processes import Child, KilledError, Parent, end
from nilr.signals import stopping_gracefully, unwinding

ROOT = Path(nilr.__file__).parents[1]

SELF = Path(__file__).parents[3]


@contextlib.contextmanager
def child(target: Any, *arguments: object) -> Iterator[Child]:
    """Start a child; its target needs no import of torch."""
    with contextlib.closing(Child("a test", target, *arguments)) as started:
        yield started


def receive(started: Child) -> Any:
    return started.receive(lambda note: None)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return True


def ignore_sigterm(parent: Parent) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent.send("ready")
    time.sleep(60)


def save_at_sigterm(parent: Parent) -> None:
    with stopping_gracefully() as stop:
        parent.send("ready")
        until(lambda: bool(stop), 60)
        parent.send("saved")


def start_child_and_wait(pids: Path) -> None:
    """Start a stopped child and one that runs; write their ids."""
    children = [Child("a test", save_at_sigterm) for _ in range(2)]
    assert [receive(started) for started in children] == ["ready"] * 2
    os.kill(children[0].process.pid, signal.SIGSTOP)
    pids.with_suffix(".part").write_text(" ".join(str(started.process.pid) for started in children))
    pids.with_suffix(".part").rename(pids)
    time.sleep(60)


def test_a_child_runs_its_target_with_its_parent_and_the_arguments() -> None:
    with child(Parent.send, {"a": 1}) as started:
        assert receive(started) == {"a": 1}
        assert started.process.wait(20) == 0


@pytest.mark.parametrize("here", ["", "absolute"], ids=["python -c", "python -m"])
def test_a_child_runs_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    for name in ("random.py", "pickle.py", "socket.py", "nilr/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("import pathlib\npathlib.Path(__file__).with_suffix('.executed').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [here and str(tmp_path), *sys.path])
    with child(Parent.send, "done") as started:
        assert receive(started) == "done"
    assert not list(tmp_path.rglob("*.executed"))


def test_a_child_finds_nilr_if_the_working_directory_is_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path if Path(entry).absolute() != ROOT)])
    with child(Parent.send, "done") as started:
        assert receive(started) == "done"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, 40])
def test_a_killed_child_is_an_error_with_its_task_and_the_signal(signum: int) -> None:
    with child(Parent.receive) as started:
        started.process.send_signal(signum)
        name = signal.Signals(signum).name if signum < 32 else f"signal {signum}"
        with pytest.raises(KilledError, match=f"the process for a test was ended by {name}") as error:
            receive(started)
    assert ("out of memory" in error.value.message) is (signum == signal.SIGKILL)


def test_a_child_that_exits_is_an_error_with_its_status() -> None:
    with child(Parent.receive) as started:
        started.send("and no further message")
        with pytest.raises(NilrError, match="the process for a test ended with status 0"):
            receive(started)


def test_a_stopped_child_is_noted_once_and_can_be_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_SECONDS_BETWEEN_CHECKS", 0.05)
    notes: list[str] = []
    with child(Parent.send, "ready") as started:
        os.kill(started.process.pid, signal.SIGSTOP)
        threading.Timer(0.5, started.process.send_signal, [signal.SIGCONT]).start()
        assert started.receive(notes.append) == "ready"
    assert notes == [f"the process for a test is stopped; to continue it: kill -CONT {started.process.pid}"]


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("how", [Child.close, lambda started: started.connection.close()])
def test_a_child_saves_its_state_and_ends_even_if_it_was_stopped(how: Callable[[Child], None], stopped: bool) -> None:
    with child(save_at_sigterm) as started:
        assert receive(started) == "ready"
        if stopped:
            os.kill(started.process.pid, signal.SIGSTOP)
        if stopped and how is not Child.close:
            started.process.send_signal(signal.SIGCONT)  # as the kernel does if the parent process ends
        how(started)
        assert started.process.wait(20) == 0


def test_children_end_if_their_parent_is_killed_even_a_stopped_one(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"from pathlib import Path; {__name__}.start_child_and_wait(Path({str(pids)!r}))"
    started = subprocess.Popen([sys.executable, "-c", f"import {__name__}; {code}"], cwd=SELF)
    until(pids.exists)
    started.kill()
    started.wait(20)
    until(lambda: all(map(ended, map(int, pids.read_text().split()))))


def test_a_child_that_does_not_end_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SECONDS_TO_END", 0.3)
    with child(ignore_sigterm) as started:
        assert receive(started) == "ready"
        began = time.monotonic()
    assert 0.3 <= time.monotonic() - began < 10
    assert started.process.returncode == -signal.SIGKILL


def test_a_signal_while_children_are_ending_kills_them() -> None:
    children = [Child("a test", ignore_sigterm) for _ in range(2)]
    for started in children:
        assert receive(started) == "ready"
    began = time.monotonic()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Interrupted), unwinding():
        end(children)
    assert time.monotonic() - began < 10
    assert [started.process.returncode for started in children] == [-signal.SIGKILL] * 2
