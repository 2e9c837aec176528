"""The commands that faults are injected into, and their output without a fault."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nilr.data.pack import open_pack
from tests.faults.conftest import ANY_CHANGE, PACK, TRAIN, Nilr, check_store, fresh, model_bits


@dataclass(frozen=True)
class Scenario:
    """A command that faults are injected into.

    Attributes:
        line: the command.
        again: the command that brings about what `line` would have, after that.
        bits: all that it made, from the directory it ran in.
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
    # the image that cannot be read leaves a gap, so the pack is written twice
    "prepare-data --skip-broken": Scenario(
        "prepare-data sources --skip-broken --image-size 16 --name new",
        "prepare-data sources --skip-broken --image-size 16 --name new --force",
        packed("new"),
    ),
    "meta-train": Scenario(f"{TRAIN} --name m --resume auto", f"{TRAIN} --name m --resume auto", model("m")),
    "adapt": Scenario("adapt base --name a", "adapt base --name a --force", model("a")),
    "probe": Scenario(
        "probe base --n-episodes 3 --json probe.json", "probe base --n-episodes 3 --json probe.json", probed
    ),
    "models import": Scenario("models import copy --name i", "models import copy --name i", model("i")),
    "models import --force": Scenario(
        "models import copy --name old --force", "models import copy --name old --force", model("old")
    ),
}


@dataclass(frozen=True)
class Whole:
    """A command that ran without a fault: its calls of one kind, its seconds, all that it made, and the pack `toy`."""

    changes: int
    seconds: float
    bits: Any
    toy: str


@cache
def run_whole(nilr: Nilr, name: str, prepared: Path, which: int = ANY_CHANGE) -> Whole:
    """Run a scenario without a fault; `which` is the kind of call that is counted."""
    scenario, work, began = SCENARIOS[name], fresh(prepared, prepared.with_name("whole")), time.monotonic()
    done = nilr(scenario.line, work, arm={"which": which})
    return Whole(done.changes, time.monotonic() - began, scenario.bits(work), packed("toy")(work))


def check_untouched(work: Path, prepared: Path, *new_toys: str) -> None:
    """Check that a failed command changed no other file, and left no invalid file."""
    check_store(work / "home")
    assert model("base")(work) == model("base")(prepared)
    assert packed("toy")(work) in (packed("toy")(prepared), *new_toys)
