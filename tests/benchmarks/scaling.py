"""Cost against inner steps, episodes and ways, for the default engine: how far is it from a straight line?

The line, a + b x, is the one with the least sum of squared relative deviations: a fit of the plain squares would hear
the largest point alone. a is what a call costs whatever its size. On all threads, episodes are done one per thread, so
that one episode leaves the other threads idle, and n episodes cost as much as the next multiple of the threads: there
the line runs over that multiple. Seconds of one thread's CPU time hear nothing of what else runs on the machine.

A second table has the cost per convolution operation over shots, ways and image sizes: is there a cliff?
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import heading
from work import RATE, SEED, Setup, draw_episodes

AXES = {"inner_steps": (1, 2, 5, 10, 20), "episodes": (1, 4, 16, 64), "n_way": (2, 5, 10, 20)}
BASE = {
    "inner_steps": {"episodes": 2, "n_way": 5},
    "episodes": {"inner_steps": 1, "n_way": 5},
    "n_way": {"inner_steps": 5, "episodes": 2},
}
MOST = 0.15
SIZES = {"n_shot": (1, 2, 5), "n_way": (5, 10, 20), "size": (32, 64, 84, 128)}
BASE_OF_SIZES = {"inner_steps": 1, "episodes": 1}
MOST_PER_OPERATION = 0.25

Point = dict[str, Any]


def fit(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return a and b of the line whose relative deviations from the points have the least sum of squares."""
    points, costs = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    design = np.stack([1 / costs, points / costs], axis=1)
    a, b = np.linalg.lstsq(design, np.ones_like(costs), rcond=None)[0]
    return float(a), float(b)


def deviations(x: list[float], y: list[float]) -> list[float]:
    """Return by how much each point lies over the line, as a fraction of the line."""
    a, b = fit(x, y)
    return [cost / (a + b * point) - 1 for point, cost in zip(x, y, strict=True)]


def serve(threads: int) -> None:
    """Do two updates for every point that is read, and say the second one's seconds of wall and of CPU time."""
    from nilr.meta.algorithms import ALGORITHMS
    from nilr.meta.engine.contract import Objective
    from nilr.meta.engine.registry import choose_engine
    from nilr.recipes.bench.flops import NeededFlop
    from nilr.runtime import prepare

    cpu = prepare("cpu", threads)
    row = ALGORITHMS["maml"]
    for line in sys.stdin:
        point = json.loads(line)
        steps, episodes = point.pop("inner_steps"), point.pop("episodes")
        setup = Setup(**point | {"widths": tuple(point["widths"])})
        learner = setup.learner()
        params = learner.initial_params()
        rates = {name: torch.tensor(RATE) for name in row.moved(learner.kinds)}
        batch = draw_episodes(episodes, setup)
        engine = choose_engine("auto", learner, cpu)
        images = {"support": setup.n_way * setup.n_shot, "query": setup.n_way * setup.n_query}
        flop = NeededFlop.of(learner, setup.size).update(row, episodes=episodes, steps=steps, **images)
        # memory of other sizes lies about from the points before; a training meets one size alone
        engine.meta_gradient(params, rates, batch, Objective(row, steps))
        wall, used = time.perf_counter(), time.process_time()
        engine.meta_gradient(params, rates, batch, Objective(row, steps))
        answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - used, "flop": flop}
        answer["engine"] = engine.name
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class Server:
    """A process that does updates on so many threads."""

    def __init__(self, threads: int) -> None:
        command = [sys.executable, str(Path(__file__)), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self, point: Point) -> dict[str, Any]:
        """Return what one update took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(point) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(rounds: int, threads: int, setup: Setup, progress: Callable[[str], None]) -> None:
    """Print the tables."""
    servers = {"all": Server(threads), "one": Server(1)}
    points = [(axis, {axis: value, **BASE[axis]}) for axis, values in AXES.items() for value in values]
    costs: dict[tuple[str, str], dict[int, list[float]]] = {}
    engine = ""
    for number in range(rounds + 1):
        progress(f"scaling: round {number} of {rounds}" if number else "scaling: warming up")
        for axis, point in points:
            for kind, server in servers.items():
                answer = server.turn(dataclasses.asdict(setup) | point)
                engine = answer["engine"]
                if number:
                    seconds = answer["wall" if kind == "all" else "cpu"]
                    costs.setdefault((axis, kind), {}).setdefault(point[axis], []).append(seconds)
    per_operation = measure_per_operation(servers["one"], rounds, setup, progress)
    for server in servers.values():
        server.close()
    report(costs, threads, rounds, engine)
    report_per_operation(per_operation, setup)


def measure_per_operation(
    server: Server, rounds: int, setup: Setup, progress: Callable[[str], None]
) -> dict[str, dict[int, list[float]]]:
    """Return CPU seconds per 10^9 operations at each point of each axis."""
    found: dict[str, dict[int, list[float]]] = {}
    for number in range(rounds):
        progress(f"cost per operation: round {number + 1} of {rounds}")
        for axis, values in SIZES.items():
            for value in values:
                answer = server.turn(dataclasses.asdict(setup) | BASE_OF_SIZES | {axis: value})
                cost = answer["cpu"] / answer["flop"] * 1e9
                found.setdefault(axis, {}).setdefault(value, []).append(cost)
    return found


def report_per_operation(costs: dict[str, dict[int, list[float]]], setup: Setup) -> None:
    """Write the table of medians, and how far the points are from the middle of the cheapest and the dearest."""
    write = sys.stdout.write
    write(f"\n{setup}, one episode, one step:\n\n")
    write("| axis | CPU seconds per 10^9 operations at each point | within |\n|---|---|---|\n")
    everything = []
    for axis, measured in costs.items():
        medians = [statistics.median(values) for values in measured.values()]
        everything += medians
        each = ", ".join(f"{value}: {cost:.4f}" for value, cost in zip(measured, medians, strict=True))
        write(f"| {axis} | {each} | {spread(medians):.0%} |\n")
    verdict = "within" if spread(everything) <= MOST_PER_OPERATION else "NOT within"
    write(f"\nAll points: {spread(everything):.0%}, {verdict} {MOST_PER_OPERATION:.0%}.\n")


def spread(costs: list[float]) -> float:
    """Return the largest relative distance of the costs from the middle between the least and the largest."""
    return (max(costs) - min(costs)) / (max(costs) + min(costs))


def report(costs: dict[tuple[str, str], dict[int, list[float]]], threads: int, rounds: int, engine: str) -> None:
    """Write the table of medians, with the largest deviation of each row."""
    write = sys.stdout.write
    write(heading(threads, SEED) + f"; engine {engine}; {rounds} rounds.\n\n")
    write("| axis | time | seconds at each point | a, of the first point | largest deviation |\n")
    write("|---|---|---|---|---|\n")
    worst = 0.0
    for (axis, kind), measured in costs.items():
        values, medians = list(measured), [statistics.median(seconds) for seconds in measured.values()]
        at_once = threads if (axis, kind) == ("episodes", "all") else 1
        x = [float(-(-value // at_once) * at_once) for value in values]
        off = max(deviations(x, medians), key=abs)
        worst = max(worst, abs(off))
        each = ", ".join(f"{value}: {cost:.3f}" for value, cost in zip(values, medians, strict=True))
        time_of = f"wall, {threads} threads" if kind == "all" else "CPU, 1 thread"
        write(f"| {axis} | {time_of} | {each} | {fit(x, medians)[0] / medians[0]:+.0%} | {off:+.1%} |\n")
    verdict = "within" if worst <= MOST else "NOT within"
    write("\nThe line is a + b x, with the least sum of squared relative deviations; maml, second order, medians.\n")
    write(f"Largest deviation {worst:.1%}: {verdict} {MOST:.0%} of a straight line.\n")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
