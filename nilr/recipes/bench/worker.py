"""The processes of a bench: one for each engine and task, so that each has its own peak of memory.

The engines work on one task in turns, so that all meet the same state of the machine.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from nilr.episodes import EpisodeSampler, PackedImages
from nilr.errors import NilrError
from nilr.meta.algorithms import Algorithm
from nilr.meta.cuda_graphs import capture_on
from nilr.meta.engine.registry import choose_engine
from nilr.meta.evaluation import evaluate
from nilr.meta.inner_lr import initial_rates, inner_rates
from nilr.meta.outer_loop import OuterLoop, OuterSettings
from nilr.meta.updates import Updates
from nilr.models.learner import Learner, Params
from nilr.models.registry import build_learner, image_arguments
from nilr.recipes.bench.flops import NeededFlop, convolution_rate, seconds_each
from nilr.recipes.common.memory import fit_memory
from nilr.recipes.common.processes import Child, Parent
from nilr.reporting import Reporter
from nilr.runtime import peak_memory, prepare
from nilr.words import counted

Task = Literal["update", "evaluation", "convolution"]

_LEAST_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """What one process does repeatedly; the fields without a comment are settings of the training."""

    # "update", one outer step from drawing its episodes to Adam; "evaluation", adapting to episodes and
    # classifying their queries; "convolution", only the network's convolutions
    task: Task
    engine: str
    algorithm: Algorithm
    arch: str
    body: tuple[tuple[str, Any], ...]  # the body's own arguments
    image_size: int
    channels: int
    n_way: int
    n_shot: int
    n_query: int
    episodes: int  # episodes of an update or of an evaluation
    steps: int  # steps of the inner loop
    seed: int  # of weights and images
    precision: str
    device: str
    threads: int | None
    captured: bool = True  # whether updates are captured in a CUDA graph, if device and engine support it

    def learner(self) -> Learner:
        """Return the learner that it uses."""
        images = image_arguments(self.image_size, self.channels)
        return build_learner(self.arch, n_way=self.n_way, **images, seed=self.seed, **dict(self.body))

    @property
    def label(self) -> str:
        """The engine's name, and whether capture is off."""
        return self.engine if self.captured else f"{self.engine}, uncaptured"


@dataclass(frozen=True)
class Turn:
    """What a turn measured."""

    values: list[float]  # seconds of the task; for "convolution", the operations per second of each convolution
    memory_before: int  # bytes that the process held before its first turn
    peak_memory: int  # the most bytes that it has held
    notes: tuple[str, ...] = ()  # for the user


Turns = dict[Job, list[Turn]]


class Worker(Child):
    """A process that does one job, a turn at a time."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"timing `{job.engine}`", serve, job)
        self.job = job

    def turn(self, note: Callable[[str], object]) -> Turn:
        """Let it work once; NilrError if it has ended, or its work failed."""
        self.send(None)
        answer = self.receive(note)
        if isinstance(answer, Turn):
            return answer
        message, hint = answer
        raise NilrError(f"timing `{self.job.engine}` failed: {message}", hint=hint)


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
    """
    turns: Turns = {}
    rates = []
    with contextlib.closing(Worker(convolution)) as alone:
        alone.turn(reporter.note)
        tasks = _tasks(jobs)
        for i, task in enumerate(tasks, 1):
            turns |= _measure(task, rounds, reporter, f"task {i} of {len(tasks)}")
            rates.append(alone.turn(reporter.note).values)
    return turns, rates


def _tasks(jobs: Sequence[Job]) -> list[list[Job]]:
    tasks: dict[Job, list[Job]] = {}
    for job in dict.fromkeys(jobs):
        tasks.setdefault(dataclasses.replace(job, engine="", captured=True), []).append(job)
    return list(tasks.values())


def _measure(jobs: Sequence[Job], rounds: int, reporter: Reporter, place: str) -> Turns:
    turns: Turns = {job: [] for job in jobs}
    first = jobs[0]
    shots = f"{first.n_way}-way {first.n_shot}-shot, {counted(first.steps, 'step')}"
    title = f"{place}, {first.algorithm.name} {first.task}, {shots}: {', '.join(job.label for job in jobs)}"
    reporter.stage(title, (rounds + 1) * len(jobs), unit="turns")
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(contextlib.closing(Worker(job))) for job in jobs]
        for number in range(rounds + 1):
            for worker in workers:
                turn = worker.turn(reporter.note)
                if number:  # the first turn warms up
                    turns[worker.job].append(turn)
                    reporter.metric(**{worker.job.label: turn.values[0]})
                reporter.advance()
    return turns


def serve(parent: Parent, job: Job) -> None:
    """Take a turn for every message; send an error as text."""
    try:
        device = prepare(job.device, job.threads, job.precision)
        notes: list[str] = []
        turn = work_of(job, device, notes.append)
        before = peak_memory(device)
        while True:
            parent.receive()
            parent.send(Turn(turn(), before, peak_memory(device), tuple(notes)))
    except Exception as error:
        parent.send((str(error) or type(error).__name__, getattr(error, "hint", None)))


def work_of(job: Job, device: torch.device, note: Callable[[str], object]) -> Callable[[], list[float]]:
    """Return the work of one turn of a job: a function that returns `Turn.values`."""
    learner = job.learner()
    if job.task == "convolution":
        network, batch = NeededFlop.of(learner, job.image_size, job.channels).convolutions, job.n_way * job.n_query
        return lambda: [convolution_rate(convolution, batch, device) for convolution in network]
    work = _update(job, learner, device, note) if job.task == "update" else _evaluation(job, learner, device)
    return lambda: [seconds_each(work, device, at_least=_LEAST_SECONDS)]


def _update(job: Job, learner: Learner, device: torch.device, note: Callable[[str], object]) -> Callable[[], object]:
    params, rates = _start(job, learner, device)
    # at an outer rate of 0 every turn does the same
    settings = OuterSettings(outer_lr=0.0, grad_clip=None, inner_steps=job.steps, outer_steps=1)
    engine = choose_engine(job.engine, learner, device, job.precision)
    n_support, n_query = job.n_way * job.n_shot, job.n_way * job.n_query
    fitted = fit_memory(
        engine,
        "auto",
        job.algorithm,
        n_episodes=job.episodes,
        n_support=n_support,
        n_query=n_query,
        image_shape=(job.channels, job.image_size, job.image_size),
        device=device,
    )
    if fitted is not None:
        note(f"{job.engine}, {job.algorithm.name}: {fitted}")
    capture = capture_on(device, note) if job.captured and engine.capturable else None
    outer = OuterLoop(job.algorithm, params, rates, engine=engine, settings=settings, capture=capture)
    updates = Updates([outer], [_sampler(job, device)], job.episodes)

    def work() -> None:
        (update,) = updates.compute(0)
        outer.apply(update.gradient, update.report, outer_step=0, first_episode=0)

    work()  # neither a capture nor an engine's trials are timed
    while not engine.settled:
        work()
    return work


def _evaluation(job: Job, learner: Learner, device: torch.device) -> Callable[[], object]:
    params, rates = _start(job, learner, device)
    inner_lr = inner_rates(job.algorithm, rates, params, learner.kinds)
    engine = choose_engine(job.engine, learner, device, job.precision)
    sampler = _sampler(job, device)
    return lambda: evaluate(engine, params, inner_lr, sampler, n_episodes=job.episodes, steps=job.steps)


def _start(job: Job, learner: Learner, device: torch.device) -> tuple[Params, Params]:
    params = {name: value.to(device) for name, value in learner.initial_params().items()}
    return params, initial_rates(job.algorithm, params, learner.kinds, job.seed)


def _sampler(job: Job, device: torch.device) -> EpisodeSampler:
    """Return a sampler of random images, with four times the classes of an episode."""
    classes, images = 4 * job.n_way, job.n_shot + job.n_query
    generator = torch.Generator().manual_seed(job.seed)
    shape = (classes * images, job.image_size, job.image_size, job.channels)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    return EpisodeSampler(
        PackedImages(pixels, (images,) * classes), job.n_way, job.n_shot, job.n_query, job.seed, "bench"
    )
