"""One contender of `peers.py` at one task, in a process of its own, which imports no other contender.

    python contender.py CONTENDER PEERS_DIRECTORY THREADS keep|plain TASK SETUP

SETUP is the JSON of a `work.Setup`.

It says `ready` and its resident memory, or `failed` and why; then, for every line that it reads, does the task once and
says its seconds of wall and of CPU time, what it computed, and the most memory that it has held, in kB.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from work import Done, PeerNet, Setup


def peak_kb() -> int:
    """Return the peak of resident memory; getrusage's would count the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def make_task(name: str, directory: Path, task: str, setup: Setup) -> Callable[[], Done]:
    batch = setup.draw(task)
    from functional_tasks import FUNCTIONAL
    from peer_tasks import PEERS, PeerTasks

    tasks: Any
    if name in FUNCTIONAL:
        tasks = FUNCTIONAL[name](directory, batch, setup, torch.get_num_threads())
    elif name in PEERS:
        tasks = PeerTasks(PEERS[name](directory, PeerNet(setup)), batch, setup)
    else:
        from nilr_tasks import NilrTasks

        tasks = NilrTasks(name, batch, setup)
    return {"evaluation": tasks.evaluate, "probe": tasks.probe}.get(task, lambda: tasks.train(task))


def main() -> None:
    name, directory, threads, allocator, task, given = sys.argv[1:]
    torch.set_num_threads(int(threads))
    values = json.loads(given)
    setup = Setup(**values | {"widths": tuple(values["widths"])})
    if allocator == "keep":
        from nilr.runtime import keep_freed_memory

        keep_freed_memory()
    try:
        work = make_task(name, Path(directory), task, setup)
    except Exception as error:
        say("failed", f"{type(error).__name__}: {error}".splitlines()[0])
        return
    say("ready", peak_kb())
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        done = work()
        say(time.perf_counter() - wall, time.process_time() - cpu, done.value, done.gradient, peak_kb())


if __name__ == "__main__":
    main()
