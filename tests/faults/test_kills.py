"""SIGKILL before every change of the disk, and in the middle of every write: nothing is lost but the work since the
last save. What lies on the disk changes by counted calls alone, so these are all the states that a kill can leave.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import KILL, Nilr, fresh, temporary_files
from tests.faults.scenarios import SCENARIOS, check_untouched, run_whole

Count = Callable[[str, int], None]

SIGKILLED = 128 + signal.SIGKILL


def check_kills(nilr: Nilr, prepared: Path, work: Path, name: str, choose: Callable[[int], list[int]]) -> int:
    """Kill the command at some of its changes; check the store and the next run."""
    scenario, whole = SCENARIOS[name], run_whole(nilr, name, prepared)
    chosen = choose(whole.changes)
    for change in chosen:
        killed = nilr(scenario.line, fresh(prepared, work), status=None, arm={"chosen": change, "action": KILL})
        assert killed.status == SIGKILLED, f"change {change} of {whole.changes}: {killed.err}"
        check_untouched(work, prepared, whole.toy)
        nilr(scenario.again, work)
        check_untouched(work, prepared, whole.toy)
        assert scenario.bits(work) == whole.bits, f"after a kill at change {change} of {whole.changes}"
        assert temporary_files(work) == []
    return len(chosen)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_a_random_instant_harms_nothing(
    nilr: Nilr, prepared: Path, work: Path, name: str, count: Count
) -> None:
    drawn = random.Random(name)
    kills = check_kills(nilr, prepared, work, name, lambda n: sorted(drawn.sample(range(n), 2)))
    count("kills at a change of the disk", kills)
    assert kills == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_every_instant_harms_nothing(nilr: Nilr, prepared: Path, work: Path, name: str, count: Count) -> None:
    kills = check_kills(nilr, prepared, work, name, lambda n: list(range(n)))
    count("kills at a change of the disk", kills)
    assert kills > 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_by_the_clock_harms_nothing(nilr: Nilr, prepared: Path, work: Path, name: str, count: Count) -> None:
    drawn, scenario, whole = random.Random(name), SCENARIOS[name], run_whole(nilr, name, prepared)
    for _ in range(20):
        running = nilr.start(scenario.line, fresh(prepared, work))
        time.sleep(drawn.uniform(0, whole.seconds))
        running.signal(signal.SIGKILL)
        count("kills by the clock", int(running.wait().status == SIGKILLED))
        check_untouched(work, prepared, whole.toy)
        nilr(scenario.again, work)
        assert scenario.bits(work) == whole.bits
        assert temporary_files(work) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(3))
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bits(
    nilr: Nilr, prepared: Path, work: Path, seed: int, count: Count
) -> None:
    drawn, training = random.Random(seed), SCENARIOS["meta-train"]
    nilr(training.line, work)
    wanted = training.bits(work)
    fresh(prepared, work)
    while nilr(training.again, work, status=None, arm={"chosen": drawn.randrange(80), "action": KILL}).status:
        check_untouched(work, prepared)
        count("kills at a change of the disk", 1)
    assert training.bits(work) == wanted
    assert temporary_files(work) == []
