"""A signal at any moment: the exit status reports it, the store stays valid, and the next run makes the same bits."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import TRAIN, Done, Nilr, fresh, temporary_files, wait_to_catch
from tests.faults.scenarios import SCENARIOS, check_untouched, model, run_whole

Count = Callable[[str, int], None]

HANGUP = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []  # under nohup none arrives
SIGNALS = [signal.SIGINT, signal.SIGTERM, *HANGUP]
REPEATS = [pytest.param(1), pytest.param(25, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]

one_signal_or_all = pytest.mark.parametrize(
    "signum",
    [signal.SIGTERM, *(pytest.param(signum, marks=pytest.mark.slow) for signum in SIGNALS if signum != signal.SIGTERM)],
)


def check_interrupted(done: Done, signum: int) -> str:
    """Check that a command ended by a signal reported one error, and return its hint."""
    assert done.status == 128 + signum, done.err
    *_, error, hint = done.err.splitlines()
    assert error == f"error: interrupted by {signal.Signals(signum).name}"
    assert done.err.count("error:") == 1
    return hint


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("repeats", REPEATS)
def test_a_signal_at_any_moment_ends_a_command_and_harms_nothing(
    nilr: Nilr, prepared: Path, work: Path, name: str, repeats: int, count: Count
) -> None:
    drawn, scenario, whole = random.Random(name), SCENARIOS[name], run_whole(nilr, name, prepared)
    for _ in range(repeats):
        running = nilr.start(scenario.line, fresh(prepared, work))
        running.wait_to_catch(signal.SIGTERM)
        time.sleep(drawn.uniform(0, whole.seconds))
        signum = drawn.choice(SIGNALS)
        running.signal(signum)
        done = running.wait(5)
        if done.status != 0:  # it was not over yet
            assert done.status == 128 + signum, done.err
            assert done.err.count("error: interrupted") == 1
            count("signals", 1)
        check_untouched(work, prepared, whole.toy)
        assert temporary_files(work) == []
        nilr(scenario.again, work)
        assert scenario.bits(work) == whole.bits


LONG = TRAIN.replace("--outer-steps 6", "--outer-steps 40").replace("--eval-every 2", "--eval-every 40")


def history(work: Path, name: str) -> list[dict[str, object]]:
    path = work / "home" / "models" / name / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@one_signal_or_all
def test_training_saves_every_finished_update_and_the_hint_goes_on_bit_for_bit(
    nilr: Nilr, work: Path, signum: int
) -> None:
    nilr(f"{LONG} --name whole", work)
    running = nilr.start(f"{LONG} --name m", work)
    running.wait_for(lambda: bool(history(work, "m")))
    running.signal(signum)
    hint = check_interrupted(running.wait(5), signum)
    done = history(work, "m")[-1]["outer_step"]
    assert f" {done}/40 " in nilr("models ls", work).out
    assert hint == "hint: resume with `nilr meta-train --resume m`"
    nilr(hint.split("`")[1].removeprefix("nilr "), work)
    assert model("m")(work) == model("whole")(work)


@pytest.mark.slow
@one_signal_or_all
def test_an_interrupted_validation_is_repeated(nilr: Nilr, work: Path, signum: int) -> None:
    line = TRAIN.replace("--eval-episodes 2", "--eval-episodes 300").replace("--outer-steps 6", "--outer-steps 2")
    nilr(f"{line} --name whole", work)
    running = nilr.start(f"{line} --name m", work)
    running.wait_for(lambda: len(history(work, "m")) == 2)
    running.signal(signum)
    check_interrupted(running.wait(5), signum)
    assert not any("val_accuracy" in logged for logged in history(work, "m"))
    nilr(f"{line} --name m --resume auto", work)
    assert model("m")(work) == model("whole")(work)


@pytest.mark.parametrize("repeats", REPEATS)
def test_a_second_signal_exits_at_once_and_saves_no_unfinished_update(
    nilr: Nilr, prepared: Path, work: Path, repeats: int, count: Count
) -> None:
    drawn = random.Random(repeats)
    line = f"{LONG} --name m --resume auto"
    began = time.monotonic()
    nilr(line, work)
    whole, wanted = time.monotonic() - began, model("m")(work)
    for _ in range(repeats):
        running = nilr.start(line, fresh(prepared, work))
        running.wait_to_say("meta-train: 0/40")
        time.sleep(drawn.uniform(0, 0.8 * whole))
        running.signal(signal.SIGINT)
        time.sleep(drawn.uniform(0, 0.02))
        running.signal(signal.SIGINT)
        done = running.wait(5)
        assert done.status in (0, 130), done.err
        count("signals", 2)
        check_untouched(work, prepared)
        nilr(line, work)
        assert model("m")(work) == wanted
        assert temporary_files(work) == []


def test_a_second_signal_does_not_wait_for_a_long_update(nilr: Nilr, work: Path) -> None:
    line = TRAIN.replace("--filters 4", "--filters 64").replace("--meta-batch-size 2", "--meta-batch-size 400")
    running = nilr.start(f"{line} --inner-steps 20 --name m", work)
    running.wait_to_say("meta-train: 0/6")
    time.sleep(0.5)
    running.signal(signal.SIGINT)
    time.sleep(0.3)
    assert running.poll() is None
    running.signal(signal.SIGINT)
    began = time.monotonic()
    check_interrupted(running.wait(5), signal.SIGINT)
    assert time.monotonic() - began < 2.5


def process(line: str, work: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "NILR_HOME": str(work / "home"), "NILR_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "nilr", *line.split()],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("repeats", [pytest.param(1), pytest.param(10, marks=[pytest.mark.slow])])
@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("prepare-data", "meta-train", "adapt")), "probe"]
)
def test_a_signal_while_the_process_starts_reports_one_error(
    prepared: Path, work: Path, name: str, repeats: int, count: Count
) -> None:
    drawn = random.Random(f"{name} {repeats}")
    for _ in range(repeats):
        running = process(SCENARIOS[name].line, fresh(prepared, work))
        wait_to_catch(running.pid, signal.SIGTERM)
        time.sleep(drawn.uniform(0, 2.5))
        signum = drawn.choice(SIGNALS)
        running.send_signal(signum)
        began = time.monotonic()
        _, err = running.communicate(timeout=240)
        if running.returncode:
            assert time.monotonic() - began < 5
            assert running.returncode == 128 + signum, err
            assert [line for line in err.splitlines() if "rror" in line or "Traceback" in line] == [
                f"error: interrupted by {signal.Signals(signum).name}"
            ]
            count("signals", 1)
        check_untouched(work, prepared)
        assert temporary_files(work) == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "pipe",
    [
        "{nilr} models ls | true",
        "{nilr} models ls >&-",
        "{nilr} probe base --n-episodes 2 --json - | true",
        pytest.param("{nilr} -q probe base --n-episodes 2 --json - | head -c 1 >/dev/null", marks=pytest.mark.slow),
        pytest.param("{nilr} -q probe base --n-episodes 2 --json /dev/stdout | true", marks=pytest.mark.slow),
    ],
)
def test_a_broken_pipe_is_silent(prepared: Path, work: Path, pipe: str) -> None:
    nilr = f"{shlex.quote(sys.executable)} -m nilr"
    command = f"{pipe.format(nilr=nilr)}; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "NILR_HOME": str(work / "home"), "NILR_THREADS": "1", "NILR_QUIET": "1"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=work, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    assert int(done.stdout) in (0, 141)
    if "probe" in pipe:
        assert len(list((work / "home" / "results").glob("*-probe-*.json"))) == 1
