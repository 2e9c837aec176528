"""Fuzz one target with atheris: `python -m tests.fuzz.fuzzer TARGET SECONDS [options of libFuzzer] CORPUS...`.

The seconds are of this process's CPU time, of which a machine shared with other work gives less than of the clock's.
`make fuzz` gives the options. A finding ends the run and is left as `crash-*`, `timeout-*` or `oom-*`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import atheris

with atheris.instrument_imports(include=["nilr"]):
    from tests.fuzz import targets

_ODD = (None, True, -1, 0, 2**63, 1e400, float("nan"), 0.5, "", "x", "\ud800", "0" * 64, [], {}, [[]], {"": {}})


def main() -> None:
    name, seconds = sys.argv.pop(1), float(sys.argv.pop(1))
    target = targets.TARGETS[name]
    for seed in sorted((targets.CORPUS / name).iterdir()):
        target(seed.read_bytes())  # whatever is imported late is imported now, before libFuzzer measures
    atheris.Setup([*sys.argv, "-handle_usr1=1"], until(seconds, target), custom_mutator=mutate)
    atheris.Fuzz()


def until(seconds: float, target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """The target, after which libFuzzer is asked to end, and to say what it did, once the CPU time is spent."""
    start = time.process_time()

    def run(content: bytes) -> None:
        target(content)
        if time.process_time() - start > seconds:
            sys.stderr.write(f"spent {time.process_time() - start:.0f} s of CPU time\n")
            os.kill(os.getpid(), signal.SIGUSR1)

    return run


def mutate(content: bytes, most: int, seed: int) -> bytes:
    """Change a value somewhere in a JSON document, where there is one; else some bytes, as libFuzzer does."""
    draw = random.Random(seed)
    if content[:1] in (b"s", b"h") and draw.random() < 0.7:
        try:
            changed = content[:1] + json.dumps(changed_within(json.loads(content[1:]), draw)).encode()
        except (ValueError, RecursionError):
            pass  # no JSON any more
        else:
            return changed[:most]
    mutated: bytes = atheris.Mutate(content, most)
    return mutated


def changed_within(value: Any, draw: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or draw.random() < 0.1:
        return draw.choice(_ODD)
    key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
    match draw.randrange(8):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[draw.choice(["", "x", "name", "parent", "adaptation"])] = value[key]
        case 2 if isinstance(value, list):
            value.append(value[key])
        case _:
            value[key] = changed_within(value[key], draw)
    return value


if __name__ == "__main__":
    main()
