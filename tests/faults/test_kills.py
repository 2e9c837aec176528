"""SIGKILL before every change of the disk, and in the middle of every write: nothing is lost but the work since the
last save. What lies on the disk changes by counted calls alone, so these are all the states that a kill can leave.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nilr.data.packed import open_pack
from tests.faults.conftest import (
    KILL,
    PACK,
    TRAIN,
    Nilr,
    check_store,
    fresh,
    model_bits,
    temporary_files,
)

SIGKILLED = 128 + signal.SIGKILL


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Attributes:
        line: the command.
        again: the command that brings about what `line` would have, after a kill.
        bits: all that it made, from the directory it ran in.
        kept: for each state that a kill may leave, what `bits` must be one of, before it runs again; None for any.
    """

    line: str
    again: str
    bits: Callable[[Path], Any]


def probed(work: Path) -> Any:
    result = json.loads((work / "probe.json").read_text(encoding="utf-8"))
    return {name: result[name] for name in ("config", "models", "data", "metrics", "per_episode", "notes")}


def packed(name: str) -> Callable[[Path], Any]:
    return lambda work: open_pack(work / "home" / "datasets" / f"{name}.h5").info.digest


def model(name: str) -> Callable[[Path], Any]:
    return lambda work: model_bits(work / "home" / "models" / name)


SCENARIOS = {
    "prepare-data": Scenario(f"{PACK} --name new", f"{PACK} --name new --force", packed("new")),
    "prepare-data --force": Scenario(
        f"{PACK} --name toy --seed 1 --force", f"{PACK} --name toy --seed 1 --force", packed("toy")
    ),
    "meta-train": Scenario(f"{TRAIN} --name m --resume auto", f"{TRAIN} --name m --resume auto", model("m")),
    "adapt": Scenario("adapt base --name a", "adapt base --name a --force", model("a")),
    "probe": Scenario(
        "probe base --n-episodes 3 --json probe.json", "probe base --n-episodes 3 --json probe.json", probed
    ),
}


def check_kills(nilr: Nilr, prepared: Path, work: Path, scenario: Scenario, choose: Callable[[int], list[int]]) -> int:
    """Kill the command at the chosen ones of its changes, and check what is left and what comes of it."""
    toy = packed("toy")
    old = toy(prepared)
    whole = nilr(scenario.line, fresh(prepared, work))
    wanted, new = scenario.bits(work), toy(work)
    chosen = choose(whole.changes)
    for change in chosen:
        killed = nilr(scenario.line, fresh(prepared, work), status=None, arm={"chosen": change, "action": KILL})
        assert killed.status == SIGKILLED, f"change {change} of {whole.changes}: {killed.err}"
        check_store(work / "home")
        assert model("base")(work) == model("base")(prepared)
        assert toy(work) in (old, new)
        nilr(scenario.again, work)
        check_store(work / "home")
        assert scenario.bits(work) == wanted, f"after a kill at change {change} of {whole.changes}"
        assert temporary_files(work) == []
    return len(chosen)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_a_random_instant_harms_nothing(nilr: Nilr, prepared: Path, work: Path, name: str) -> None:
    drawn = random.Random(name)
    assert check_kills(nilr, prepared, work, SCENARIOS[name], lambda n: sorted(drawn.sample(range(n), 4))) == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_at_every_instant_harms_nothing(
    nilr: Nilr, prepared: Path, work: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    kills = check_kills(nilr, prepared, work, SCENARIOS[name], lambda n: list(range(n)))
    record_property("kills", kills)
    assert kills > 10
