"""Bench: how fast each engine is on this machine, what memory it takes, and how long each preset will take.

The images are random, so no pack is needed. The engines work on a task in turns, each in its own process.
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Sequence

import torch

from nilr.config.bench import BenchSettings
from nilr.config.meta_train import PRESETS, TrainSettings
from nilr.errors import UnknownNameError, UsageError
from nilr.meta.engine.registry import AUTO, ENGINES, choose_engine
from nilr.models.learner import Learner
from nilr.recipes.bench.flops import Convolution, NeededFlop
from nilr.recipes.bench.plan import BenchPlan
from nilr.recipes.bench.worker import Job, Turn, Turns, take_turns
from nilr.recipes.common.outcome import Outcome
from nilr.reporting import Reporter
from nilr.results.bench import BenchMetrics, ConvolutionRate, EngineBench, PresetTime, Timing
from nilr.results.result import Result
from nilr.runtime import environment, prepare

EVERY_ENGINE = "all"
UNEVEN = 1.5


def run(settings: BenchSettings, reporter: Reporter) -> Result[BenchMetrics]:
    """Time the engines, and estimate from that how long the presets will take."""
    outcome = Outcome(settings)
    device = prepare(settings.device, settings.threads, settings.precision)
    if settings.engine not in (EVERY_ENGINE, "auto", *ENGINES):
        raise UnknownNameError("engine", settings.engine, (EVERY_ENGINE, "auto", *ENGINES))
    everything = settings.engine == EVERY_ENGINE
    plan = BenchPlan(settings, device)
    timed = {algo: plan.training(algo=algo) for algo in settings.algo.split(",")}
    learner = plan.convolution("auto").learner()
    default = choose_engine("auto" if everything else settings.engine, learner, device, settings.precision).name
    available = _available(learner, device, settings.precision) if everything else [default]
    of_body = [name for name, preset in PRESETS.items() if preset.get("arch", settings.arch) == settings.arch]
    presets = {name: plan.training(preset=name) for name in of_body}
    jobs = [job for training in timed.values() for name in available for job in plan.jobs(training, name)]
    jobs += [_uncaptured(job) for job in jobs if _is_captured(job, device)]
    jobs += [job for training in presets.values() for job in plan.jobs(training, default)]
    reporter.note(f"random images of {settings.image_size} px; no pack is read")
    turns, rates = take_turns(jobs, plan.convolution(default), settings.rounds, reporter)
    figures = Figures(turns, rates, NeededFlop.of(learner, settings.image_size, settings.channels).convolutions)
    unavailable = [name for name in AUTO[device.type] if everything and name not in available]
    return outcome.result(
        BenchMetrics(
            attainable_flop_per_second=figures.attainable,
            convolutions=figures.convolutions(),
            engines={
                algo: {name: figures.engine(*plan.jobs(training, name)) for name in available}
                for algo, training in timed.items()
            },
            presets={
                name: figures.preset(training, default, *plan.jobs(training, default))
                for name, training in presets.items()
            },
            unavailable=unavailable,
        ),
        config=settings.model_dump(mode="json", exclude={"home"}),
        notes=figures.notes(device, unavailable),
        environment=environment(device, default),
    )


def _available(learner: Learner, device: torch.device, precision: str) -> list[str]:
    found = []
    for name in AUTO[device.type]:
        with contextlib.suppress(UsageError):
            found.append(choose_engine(name, learner, device, precision).name)
    return found


def _is_captured(job: Job, device: torch.device) -> bool:
    return job.task == "update" and device.type == "cuda" and ENGINES[job.engine].capturable


def _uncaptured(job: Job) -> Job:
    return dataclasses.replace(job, captured=False)


class Figures:
    """The figures that follow from the turns."""

    def __init__(self, turns: Turns, rates: Sequence[Sequence[float]], convolutions: Sequence[Convolution]) -> None:
        self._turns, self._convolutions = turns, convolutions
        self._rates: list[float] = [statistics.median(of_one) for of_one in zip(*rates, strict=True)]
        self._needed: dict[tuple[object, ...], NeededFlop] = {}  # by network

    @property
    def attainable(self) -> float:
        """Operations per second of the fastest convolution."""
        return max(self._rates)

    @property
    def has_shares(self) -> bool:
        """Whether no engine is faster than the fastest convolution, which was measured at another moment."""
        return all(self._flop(job) / self._seconds(job) <= self.attainable for job in self._turns)

    def convolutions(self) -> list[ConvolutionRate]:
        """Return the operations per second of each convolution."""
        return [
            ConvolutionRate(convolution=str(convolution), flop_per_second=rate)
            for convolution, rate in zip(self._convolutions, self._rates, strict=True)
        ]

    def engine(self, update: Job, evaluation: Job) -> EngineBench:
        """Return the timings of one engine."""
        uncaptured = _uncaptured(update)
        return EngineBench(
            update=self._timing(update),
            update_uncaptured=self._timing(uncaptured) if uncaptured in self._turns else None,
            evaluation=self._timing(evaluation),
        )

    def preset(self, training: TrainSettings, engine: str, update: Job, evaluation: Job) -> PresetTime:
        """Return how long a training will take."""
        per_update, evaluated = self._seconds(update), self._seconds(evaluation)
        # every logged update also evaluates its queries before adaptation
        queries = update.episodes * update.n_way * update.n_query * self._needed_by(update).forward
        per_update += queries * evaluated / self._flop(evaluation) / training.log_every
        validations = training.validations_after(0)
        per_validation = training.eval_episodes * evaluated / evaluation.episodes
        return PresetTime(
            algo=training.algo,
            engine=engine,
            outer_steps=training.outer_steps,
            seconds_per_update=per_update,
            validations=validations,
            seconds_per_validation=per_validation,
            seconds=training.outer_steps * per_update + validations * per_validation,
            peak_memory_bytes=max(self._peak_memory(update), self._peak_memory(evaluation)),
        )

    def notes(self, device: torch.device, unavailable: Sequence[str]) -> list[str]:
        """Return notes for the user."""
        memory = "of its tensors on the device" if device.type == "cuda" else "resident, with Python and torch"
        notes = [
            "Task 4x5: 4 episodes, 5 inner steps. Seconds: median of the rounds.",
            "Share: the rate of the convolutions that the task needs, as a share of the fastest convolution alone.",
            f"Memory: peak of a process that does only this task, {memory}.",
            "Presets: those whose body is --arch.",
        ]
        if unavailable:
            notes.append(f"Not available on this machine or with this --arch or --precision: {', '.join(unavailable)}.")
        notes += dict.fromkeys(note for turns in self._turns.values() for turn in turns for note in turn.notes)
        spread = max(max(seconds) / min(seconds) for seconds in map(_seconds, self._turns.values()))
        if not self.has_shares:
            notes.append(
                "An engine was faster than the plain convolutions, so other programs ran while these were measured: "
                "shares are left out. Repeat the command when the machine is idle."
            )
        if spread > UNEVEN:
            notes.append(
                f"Turns of one engine differ by a factor of up to {spread:.1f}: other programs ran on this machine."
            )
        return notes

    def _timing(self, job: Job) -> Timing:
        turns = self._turns[job]
        seconds, flop = self._seconds(job), self._flop(job)
        return Timing(
            episodes=job.episodes,
            inner_steps=job.steps,
            seconds=seconds,
            seconds_fastest=min(_seconds(turns)),
            seconds_slowest=max(_seconds(turns)),
            episodes_per_second=job.episodes / seconds,
            flop=flop,
            share_of_attainable=flop / seconds / self.attainable if self.has_shares else None,
            memory_before_bytes=turns[0].memory_before,
            peak_memory_bytes=self._peak_memory(job),
        )

    def _seconds(self, job: Job) -> float:
        return statistics.median(_seconds(self._turns[job]))

    def _peak_memory(self, job: Job) -> int:
        return max(turn.peak_memory for turn in self._turns[job])

    def _needed_by(self, job: Job) -> NeededFlop:
        """Return the operations that the job's network needs."""
        network = job.arch, job.body, job.n_way
        if network not in self._needed:
            self._needed[network] = NeededFlop.of(job.learner(), job.image_size, job.channels)
        return self._needed[network]

    def _flop(self, job: Job) -> int:
        needed = self._needed_by(job)
        flop = needed.update if job.task == "update" else needed.evaluation
        return flop(
            job.algorithm,
            support=job.n_way * job.n_shot,
            query=job.n_way * job.n_query,
            episodes=job.episodes,
            steps=job.steps,
        )


def _seconds(turns: Sequence[Turn]) -> list[float]:
    return [turn.values[0] for turn in turns]
