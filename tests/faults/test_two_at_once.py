"""Several processes on one store: the one that must wait reports it, and every file stays valid."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nilr.files import TEMPORARY_PREFIX
from tests.faults.conftest import PACK, TRAIN, Nilr, check_store, fresh, temporary_files
from tests.faults.scenarios import model

LONG = TRAIN.replace("--outer-steps 6", "--outer-steps 60")

# What two processes may do beside one another, all on the same names.
MIX = (
    f"{TRAIN} --name m --resume auto",
    f"{TRAIN} --name m --force",
    f"{TRAIN} --algo maml",
    "adapt base --name a --force",
    "adapt base",
    "probe base --n-episodes 3",
    f"{PACK} --name toy --force",
    f"{PACK} --name new --force",
    "models rm m --yes",
    "models rm a --yes",
    "models ls",
    "models verify base",
    "models import copy --name m --force",
)

# What may be said to the one that loses.
LOST = ("is in use by another process", "no model `m`", "no model `a`", "exists in", "no training state")


@pytest.mark.slow
def test_the_second_training_of_a_name_is_refused_and_the_first_is_not_disturbed(nilr: Nilr, work: Path) -> None:
    nilr(f"{LONG} --name whole", work)
    first = nilr.start(f"{LONG} --name m", work)
    first.wait_to_say("meta-train: 0/60")
    for line in (f"{LONG} --name m", f"{LONG} --name m --resume auto", f"{LONG} --name m --force", "models rm m --yes"):
        second = nilr(line, work, status=1)
        assert second.err.startswith("error: model `m` ")
        assert "is in use by another process" in second.err or "exists in" in second.err
        assert "\nhint: " in second.err
    assert first.wait().status == 0
    assert model("m")(work) == model("whole")(work)


def test_two_trainings_without_a_name_get_one_each(nilr: Nilr, work: Path) -> None:
    both = [nilr.start(TRAIN, work) for _ in range(2)]
    assert [running.wait().status for running in both] == [0, 0]
    assert model("metasgd")(work) == model("metasgd-2")(work)


def test_the_second_packing_of_a_name_is_refused(nilr: Nilr, work: Path) -> None:
    first = nilr.start(f"{PACK} --name new --limit-per-class 60", work)
    first.wait_for(lambda: any((work / "home" / "datasets").glob(f"{TEMPORARY_PREFIX}*")))
    first.signal(signal.SIGSTOP)  # it holds the name for as long as the second one takes
    second = nilr(f"{PACK} --name new", work, status=1)
    assert second.err.startswith("error: pack `new` is in use by another process\nhint: ")
    first.signal(signal.SIGCONT)
    assert first.wait().status == 0
    check_store(work / "home")


@pytest.mark.slow
def test_a_model_may_be_removed_and_a_pack_replaced_during_a_probe(nilr: Nilr, work: Path) -> None:
    line = "probe base --n-episodes 300 --json probe.json"
    nilr(line, work)
    alone = (work / "probe.json").read_text().split('"metrics"')[1].split('"environment"')[0]
    running = nilr.start(line, work)
    running.wait_to_say("probe")
    nilr("models rm base --yes", work)
    nilr(f"{PACK} --name toy --seed 1 --force", work)
    assert running.poll() is None, "the probe must still run for this test to mean anything"
    assert running.wait().status == 0
    assert (work / "probe.json").read_text().split('"metrics"')[1].split('"environment"')[0] == alone


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_released(nilr: Nilr, work: Path) -> None:
    line = f"{LONG} --name m --resume auto"
    killed = nilr.start(line, work)
    killed.wait_to_say("meta-train: 0/60")
    killed.signal(signal.SIGKILL)
    assert killed.wait().status == 128 + signal.SIGKILL
    assert (work / "home" / "locks" / "m.lock").exists()
    nilr(line, work)


@pytest.mark.parametrize(
    "rounds", [pytest.param(2), pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_no_interleaving_breaks_a_file(
    nilr: Nilr, prepared: Path, work: Path, rounds: int, count: Callable[[str, int], None]
) -> None:
    """Run three commands at a time, started and sometimes killed at random, with `ls`, on one store."""
    drawn = random.Random(rounds)
    for i in range(rounds):
        if i % 10 == 0:
            fresh(prepared, work)
        lines = drawn.sample(MIX, 3)
        running = []
        for line in lines:
            running.append(nilr.start(line, work))
            time.sleep(drawn.uniform(0, 0.15))
        if drawn.random() < 0.3:
            running[0].signal(signal.SIGKILL)
        listed = nilr("models ls", work)
        assert "unreadable" not in listed.out, listed.out
        for line, command in zip(lines, running, strict=True):
            done = command.wait()
            assert done.status in (0, 137) or any(words in done.err for words in LOST), f"{line}: {done.err}"
            assert "internal" not in done.err
        check_store(work / "home")
        count("interleavings", 1)
    for line in (f"{TRAIN} --name m --force", "adapt base --name a --force", f"{PACK} --name new --force"):
        nilr(line, work)
    nilr("probe base --n-episodes 3", work)
    assert temporary_files(work) == []
