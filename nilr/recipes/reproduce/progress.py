"""The progress of an experiment by estimated cost, and the time left, from what similar steps have taken."""

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nilr.recipes.common.tasks import Message, Relay, with_name
from nilr.recipes.reproduce.plan import TRAINING, ExperimentPlan, PlannedModel, measure, train
from nilr.reporting import Reporter

# Estimated seconds of completed work after which the time that it took is trusted.
_TRUSTED_SECONDS = 3.0

Shares = Mapping[str, Mapping[str, float]]


@dataclass
class _Step:
    """The training of a model, or a measurement."""

    run: str
    name: str
    seconds: float  # estimated
    share: float  # done

    @property
    def kinds(self) -> tuple[str, str]:
        """The kinds of steps whose true cost tells that of this one: all seeds of it, and all trainings or probes."""
        return f"{self.run} {self.name}", "training" if self.name == TRAINING else "measurement"


@dataclass
class _Spent:
    """Seconds that steps of one kind were estimated to take and have taken."""

    estimated: float = 0.0
    taken: float = 0.0

    def slowness(self, guess: float) -> float:
        """Return how many times longer than estimated the steps take."""
        trust = min(1.0, self.estimated / _TRUSTED_SECONDS)
        return trust * self.taken / (self.estimated or 1.0) + (1 - trust) * guess


class ExperimentProgress:
    """Reports how much of an experiment is done.

    Args:
        models: all models, in order.
        costs: estimated seconds of each model's steps.
        shares: what is finished of them.
        slowness: how many times longer a step takes because of the other jobs.
        reporter: shows it.
    """

    def __init__(
        self, models: Sequence[PlannedModel], costs: Shares, shares: Shares, slowness: float, reporter: Reporter
    ) -> None:
        self._reporter, self._slowness = reporter, slowness
        self._steps = {
            model.name: {
                name: _Step(model.run.name, name, seconds, shares[model.name][name])
                for name, seconds in costs[model.name].items()
            }
            for model in models
        }
        self._spent: dict[str, _Spent] = {}
        self._running: dict[str, tuple[_Step, float]] = {}  # by model: its step, and when it last reported

    def start(self, jobs: int) -> float:
        """Begin, and return the estimated seconds."""
        unfinished = sum(self._unfinished(name) for name in self._steps)
        self._reporter.stage("reproduce", len(self._steps), done=len(self._steps) - unfinished, unit="models")
        self._report(jobs)
        return self._left(jobs)

    def begin(self, name: str) -> None:
        """Show a model whose process is starting."""
        self._reporter.metric(**{f"{name} {TRAINING} share": self._steps[name][TRAINING].share})

    def handle(self, name: str, message: Message | None, jobs: int) -> None:
        """Report a message from a model's `Relay`, or None if the model is finished."""
        if isinstance(message, str):
            self._reporter.note(with_name(name, message))
            return
        before = self._running.pop(name, None)
        if before is not None:
            step, since = before
            continued = message is not None and message[0] == step.name
            self._count(step, max(step.share, message[1]) if message and continued else 1.0, time.monotonic() - since)
            if not continued:
                self._reporter.metric(**{f"{name} {step.name} share": None})
        if message is None:
            self._reporter.advance()
        else:
            step = self._steps[name][message[0]]
            self._running[name] = step, time.monotonic()
            self._reporter.metric(**{f"{name} {step.name} share": step.share})
        self._report(jobs)

    def stop(self, name: str) -> None:
        """Note that a model's job has ended before its time."""
        if (running := self._running.pop(name, None)) is not None:
            self._reporter.metric(**{f"{name} {running[0].name} share": None})

    def _report(self, jobs: int) -> None:
        """Report the share of the work that is done, and as soon as some of it was measured, the time left."""
        steps = [step for of_model in self._steps.values() for step in of_model.values()]
        share = sum(step.seconds * step.share for step in steps) / sum(step.seconds for step in steps)
        measured = any(spent.estimated >= _TRUSTED_SECONDS for spent in self._spent.values())
        self._reporter.expect(self._left(jobs) if measured else None, share)

    def _unfinished(self, name: str) -> bool:
        return any(step.share < 1 for step in self._steps[name].values())

    def _count(self, step: _Step, share: float, seconds: float) -> None:
        for kind in step.kinds:
            spent = self._spent.setdefault(kind, _Spent())
            spent.estimated += (share - step.share) * step.seconds
            spent.taken += seconds
        step.share = share

    def _left(self, jobs: int) -> float:
        """Return the seconds until the last model is finished, if each job takes the next one in order."""
        loads = sorted(self._seconds(name) for name in self._running)
        loads += [0.0] * (jobs - len(loads))
        heapq.heapify(loads)
        for name in self._steps:
            if name not in self._running:
                heapq.heappush(loads, heapq.heappop(loads) + self._seconds(name))
        return max(loads)

    def _seconds(self, name: str) -> float:
        return sum((1 - step.share) * step.seconds * self._slowness_of(step) for step in self._steps[name].values())

    def _slowness_of(self, step: _Step) -> float:
        slowness, none = self._slowness, _Spent()
        for kind in reversed(step.kinds):
            slowness = self._spent.get(kind, none).slowness(slowness)
        return slowness


def work(relay: Relay, plan: ExperimentPlan, model: PlannedModel) -> None:
    """Train a model and measure it; skip what is finished."""
    relay.begin(TRAINING)
    train(plan, model, relay)
    for name, measurement in plan.measurements(model).items():
        relay.begin(name)
        measure(plan, model, measurement, relay)
