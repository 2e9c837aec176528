"""Jobs that are killed or stopped, and parent processes that are: nothing waits for ever, nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nilr.checkpoint import read_manifest
from tests.faults.conftest import until, wait_to_catch
from tests.faults.test_stopping import SIGNALS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
    pytest.mark.timeout(1800),
]

IN_TIME = 20.0

once_or_often = pytest.mark.parametrize("repeats", [1, pytest.param(20, marks=pytest.mark.slow)])
often = pytest.mark.parametrize("repeats", [pytest.param(20, marks=pytest.mark.slow)])

Count = Callable[[str, int], None]

REPRODUCE = (
    "reproduce --preset demo --seeds 2 --filters 4 --n-episodes 2 --threads 2 --jobs 2 --outer-steps 100000 --home home"
)
BENCH = "--home home bench --engine explicit --algo metasgd --image-size 16 --filters 4 --rounds 1000 --threads 1"
TRAIN = (
    "meta-train --data nilr-demo --seeds 2 --name m --resume auto --filters 4 --outer-steps 100000 --eval-every 0 "
    "--threads 1 --home home"
)


@dataclass
class Command:
    """A running command in a session of its own, with a temporary directory of its own."""

    process: subprocess.Popen[bytes]
    work: Path
    longest: float = 5  # seconds that its jobs may work before a fault

    def err(self) -> str:
        return (self.work / "err").read_text(encoding="utf-8")

    def jobs(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text(encoding="utf-8").split()]

    def wait_for_jobs(self, drawn: random.Random) -> list[int]:
        """Wait until two processes have started, and then for a random time in which they begin their work."""
        until(lambda: len(self.jobs()) >= 2, 300)
        time.sleep(drawn.uniform(0, self.longest))
        return self.jobs()

    def wait_to_say(self, words: str) -> None:
        until(lambda: words in self.err(), IN_TIME)

    def signal_all(self, signum: int) -> None:
        os.killpg(self.process.pid, signum)

    def ends(self, seconds: float = IN_TIME) -> int:
        """Return the status at its end; check that it ends in time and leaves no process and no file."""
        status = self.process.wait(seconds)
        until(lambda: not session(self.process.pid), seconds)
        # torch has one cache per user
        assert [p.name for p in (self.work / "tmp").iterdir() if not p.name.startswith("torchinductor_")] == []
        err = self.err()
        assert not re.search("internal|Traceback|EOFError", err), err
        assert err.count("error: ") == (status > 0), err
        return status


def session(leader: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, _group, of, *_ = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            if int(of) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def running(line: str, work: Path) -> Iterator[Command]:
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(work / "tmp"), "OMP_NUM_THREADS": "1"}
    with (work / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "nilr", *line.split()],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=err,
            start_new_session=True,
        )
    try:
        yield Command(process, work)
    finally:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def trials(repeats: int, tmp_path: Path, count: Count) -> Callable[[str], Iterator[Command]]:
    """Run a command several times."""

    def commands(line: str) -> Iterator[Command]:
        for _ in range(repeats):
            with running(line, tmp_path) as command:
                command.longest = 1 if repeats == 1 else command.longest
                yield command
                assert command.process.returncode is not None
            count("killed and stopped jobs", 1)

    return commands


@pytest.fixture
def drawn(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.node.name)


Trials = Callable[[str], Iterator[Command]]


@pytest.mark.slow
@once_or_often
def test_the_other_jobs_continue_without_a_killed_one_and_the_last_one_is_an_error(
    trials: Trials, drawn: random.Random
) -> None:
    for command in trials(REPRODUCE):
        first, *_ = command.wait_for_jobs(drawn)
        os.kill(first, signal.SIGKILL)
        command.wait_to_say("; continuing with 1 job")
        (second,) = command.jobs()
        time.sleep(drawn.uniform(0, 1))
        os.kill(second, signal.SIGKILL)
        assert command.ends() == 1
        ended = "the process for `demo-[a-z0-9-]+` was ended by SIGKILL; the machine may have run out of memory"
        assert len(re.findall(ended, command.err())) == 2
        assert (
            command.err().splitlines()[-1].endswith("; finished work is kept; run the same command again to continue")
        )


@often
def test_a_job_that_is_ended_by_another_signal_is_named_with_it(trials: Trials, drawn: random.Random) -> None:
    for command in trials(REPRODUCE):
        signum = drawn.choice([*SIGNALS, signal.SIGSEGV])
        os.kill(command.wait_for_jobs(drawn)[0], signum)
        command.wait_to_say(f" was ended by {signum.name}; continuing with 1 job")
        command.process.terminate()
        assert command.ends() == 128 + signal.SIGTERM


@pytest.mark.slow
@once_or_often
@pytest.mark.parametrize(
    ("line", "signum"),
    [
        pytest.param(REPRODUCE, signal.SIGTERM, id="reproduce, SIGTERM"),
        pytest.param(REPRODUCE, signal.SIGINT, id="reproduce, SIGINT", marks=pytest.mark.slow),
        pytest.param(BENCH, signal.SIGTERM, id="bench, SIGTERM", marks=pytest.mark.slow),
        pytest.param(BENCH, signal.SIGINT, id="bench, SIGINT", marks=pytest.mark.slow),
    ],
)
def test_a_command_whose_job_is_stopped_can_be_interrupted(
    trials: Trials, drawn: random.Random, line: str, signum: signal.Signals
) -> None:
    for command in trials(line):
        os.kill(drawn.choice(command.wait_for_jobs(drawn)), signal.SIGSTOP)
        time.sleep(drawn.uniform(0, 0.2))
        if signum == signal.SIGINT:
            command.signal_all(signum)  # as the terminal does
        else:
            command.process.send_signal(signum)
        assert command.ends() == 128 + signum


@often
def test_a_stopped_job_is_named_with_the_command_that_continues_it(trials: Trials, drawn: random.Random) -> None:
    for command in trials(REPRODUCE):
        job = command.wait_for_jobs(drawn)[0]
        os.kill(job, signal.SIGSTOP)
        command.wait_to_say(f" is stopped; to continue it: kill -CONT {job}")
        command.process.terminate()
        assert command.ends() == 128 + signal.SIGTERM


@pytest.mark.slow
@once_or_often
@pytest.mark.parametrize(
    ("line", "stopped"),
    [
        pytest.param(REPRODUCE, False, id="reproduce", marks=pytest.mark.slow),
        pytest.param(REPRODUCE, True, id="reproduce, stopped"),
        pytest.param(BENCH, False, id="bench", marks=pytest.mark.slow),
        pytest.param(BENCH, True, id="bench, stopped", marks=pytest.mark.slow),
    ],
)
def test_jobs_end_with_a_killed_command(trials: Trials, drawn: random.Random, line: str, stopped: bool) -> None:
    for command in trials(line):
        jobs = command.wait_for_jobs(drawn)
        if stopped:
            os.kill(drawn.choice(jobs), signal.SIGSTOP)
        command.process.kill()
        assert command.ends() == -signal.SIGKILL


@often
@pytest.mark.parametrize("line", [REPRODUCE, BENCH, TRAIN], ids=["reproduce", "bench", "meta-train"])
def test_a_suspended_command_continues_and_can_be_interrupted(
    trials: Trials, drawn: random.Random, line: str, tmp_path: Path
) -> None:
    if line is TRAIN:
        with running("prepare-data --synthetic --name nilr-demo --image-size 16 --home home", tmp_path) as prepared:
            assert prepared.ends() == 0
    for command in trials(line):
        if line is TRAIN:
            wait_to_catch(command.process.pid, signal.SIGTERM)
            time.sleep(drawn.uniform(0, 4))
        else:
            command.wait_for_jobs(drawn)
        command.signal_all(signal.SIGTSTP)
        time.sleep(drawn.uniform(0, 3))
        command.signal_all(signal.SIGCONT)
        time.sleep(drawn.uniform(0, 0.5))
        assert command.process.poll() is None
        command.signal_all(signal.SIGINT)
        assert command.ends() == 128 + signal.SIGINT
        assert "stopped" not in command.err()


@pytest.mark.slow
@once_or_often
def test_a_killed_bench_job_is_named(trials: Trials, drawn: random.Random) -> None:
    for command in trials(BENCH):
        os.kill(command.wait_for_jobs(drawn)[-1], signal.SIGKILL)
        assert command.ends() == 1
        assert "error: the process for timing `explicit` was ended by SIGKILL; the machine may have" in command.err()


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1])
@pytest.mark.parametrize(
    ("how", "to_all"),
    [
        (signal.SIGINT, True),
        (signal.SIGTERM, False),
        (signal.SIGTERM, True),
        (signal.SIGKILL, False),
    ],
)
def test_jobs_save_what_they_have_if_the_command_ends(
    trials: Trials, tmp_path: Path, how: signal.Signals, to_all: bool
) -> None:
    models = [tmp_path / "home" / "models" / f"demo-maml-s{seed}" for seed in (0, 1)]
    for command in trials(REPRODUCE):
        until(lambda: all((model / "history.jsonl").exists() for model in models))
        time.sleep(1)
        if to_all:  # as a terminal and a service manager do
            command.signal_all(how)
        else:
            command.process.send_signal(how)
        status = command.ends()
        assert status == (-how if how == signal.SIGKILL else 128 + how)
        hint = "hint: finished work is kept; run the same command again to continue"
        assert how == signal.SIGKILL or hint in command.err()
        for model in models:
            assert read_manifest(model / "last.safetensors").outer_step > 0
            assert (model / "training.safetensors").is_file()
