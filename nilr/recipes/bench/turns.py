"""Turns: the engines of one task take them in rounds, so that all see the same state of the machine."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from nilr.recipes.bench.worker import Job, Turn, Worker
from nilr.reporting import Reporter

Turns = dict[Job, list[Turn]]


def take_turns(
    wanted: Sequence[Job], convolution: Job, rounds: int, reporter: Reporter
) -> tuple[Turns, list[list[float]]]:
    """Do every job once unmeasured and then once in every round, and the convolutions after each task.

    Args:
        wanted: jobs; what stands twice is done once. Those that differ in engine or capture alone share
            their rounds.
        convolution: measures plain convolutions.
        rounds: how many.
        reporter: told of every turn.

    Returns:
        The turns of every job, and the rates of the convolutions in each of their turns.

    Raises:
        NilrError: a process failed.
    """
    turns: Turns = {}
    rates = []
    with contextlib.closing(Worker(convolution)) as plain:
        plain.turn()
        for group in _groups(wanted):
            turns |= _task(group, rounds, reporter)
            rates.append(plain.turn().values)
    return turns, rates


def _groups(wanted: Sequence[Job]) -> list[list[Job]]:
    groups: dict[Job, list[Job]] = {}
    for job in dict.fromkeys(wanted):
        groups.setdefault(dataclasses.replace(job, engine="", captured=True), []).append(job)
    return list(groups.values())


def _task(jobs: Sequence[Job], rounds: int, reporter: Reporter) -> Turns:
    turns: Turns = {job: [] for job in jobs}
    first = jobs[0]
    shots = f"{first.n_way}-way {first.n_shot}-shot, {first.steps} step{'s' if first.steps != 1 else ''}"
    title = f"{first.algorithm.name} {first.task}, {shots}: {', '.join(job.label for job in jobs)}"
    reporter.stage(title, (rounds + 1) * len(jobs), unit="turns")
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(contextlib.closing(Worker(job))) for job in jobs]
        for number in range(rounds + 1):
            for worker in workers:
                turn = worker.turn()
                if number:  # the first turn warms up
                    turns[worker.job].append(turn)
                    reporter.metric(**{worker.job.label: turn.values[0]})
                reporter.advance()
    return turns
