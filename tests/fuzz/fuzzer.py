"""Fuzz one target with atheris: `python -m tests.fuzz.fuzzer TARGET [options of libFuzzer] CORPUS...`.

`make fuzz` gives the options. A finding ends the run and is left as `crash-*`, `timeout-*` or `oom-*`.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import atheris

with atheris.instrument_imports(include=["nilr"]):
    from tests.fuzz import targets

_ODD = (None, True, -1, 0, 2**63, 1e400, float("nan"), 0.5, "", "x", "\ud800", "0" * 64, [], {}, [[]], {"": {}})


def main() -> None:
    name = sys.argv.pop(1)
    target = targets.TARGETS[name]
    for seed in sorted((targets.CORPUS / name).iterdir()):
        target(seed.read_bytes())  # whatever is imported late is imported now, before libFuzzer measures
    atheris.Setup(sys.argv, target, custom_mutator=mutate)
    atheris.Fuzz()


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
