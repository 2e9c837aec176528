"""The engines work on one task in turns, so that all meet the same state of the machine."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from nilr.recipes.bench.worker import Job, Turn, Worker
from nilr.reporting import Reporter

Turns = dict[Job, list[Turn]]


def take_turns(
    jobs: Sequence[Job], convolution: Job, rounds: int, reporter: Reporter
) -> tuple[Turns, list[list[float]]]:
    """Do every job once as a warm-up and then once in every round; measure the convolutions after each task.

    Args:
        jobs: repeated ones are done once. Jobs that differ only in engine or capture are one task.
        convolution: the job that measures the convolutions alone.
        rounds: number of rounds.
        reporter: reports every turn.

    Returns:
        The turns of every job, and the operations per second of each convolution in each of their turns.

    Raises:
        NilrError: a process failed.
    """
    turns: Turns = {}
    rates = []
    with contextlib.closing(Worker(convolution)) as alone:
        alone.turn()
        for task in _tasks(jobs):
            turns |= _measure(task, rounds, reporter)
            rates.append(alone.turn().values)
    return turns, rates


def _tasks(jobs: Sequence[Job]) -> list[list[Job]]:
    tasks: dict[Job, list[Job]] = {}
    for job in dict.fromkeys(jobs):
        tasks.setdefault(dataclasses.replace(job, engine="", captured=True), []).append(job)
    return list(tasks.values())


def _measure(jobs: Sequence[Job], rounds: int, reporter: Reporter) -> Turns:
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
