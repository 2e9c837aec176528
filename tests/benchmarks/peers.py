"""Times nilr against other libraries, interleaved in one run, and prints Markdown: `make bench`.

Every contender is a process of its own for every task and allocator setting, so that peak memory and the allocator's
state are its own too. Before the rounds what they compute is compared. In every round each does the task once, in an
order that moves on by one; ratios are medians over the rounds of same-round pairs, with the quartiles beside them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

import torch
from machine import heading
from work import CHECKED, FILTERS, N_QUERY, N_SHOT, SEED, SIZE, TRAINING_STEPS, WORK, Setup

from nilr.meta.engine.registry import AUTO, ENGINES
from nilr.models.registry import BODIES

HERE = Path(__file__).parent
COMPILED = ("torch.func", "jax")
"""Peers that compile each task before the rounds, for minutes; timed with the first allocator setting only."""
PEERS = ("learn2learn", "higher", "torchopt", *COMPILED)
REFERENCE = "learn2learn"
ALLOCATORS = ("keep", "plain")
RECOMPUTE = "+recompute"
HEADER = """| task | contender | allocator | seconds | times learn2learn, plain | times learn2learn, keep | MB | ratio |
|---|---|---|---|---|---|---|---|
"""
NOTE = """Seconds are medians over the rounds. A ratio to learn2learn is the median of same-round pairs, with its
quartiles; above 1 is faster. `keep`: glibc keeps freed memory, as nilr sets it; `plain`: glibc's default, and so a peer
as installed. torch.func and JAX compile each task before the rounds. Memory is the peak of a process that does this
task alone, with Python, torch and the images; its ratio is to learn2learn, plain. All parameters are adapted.
`+recompute`: nilr with --recompute on.

"""

Key = tuple[str, str]
"""Contender, allocator setting."""


def fetch_learn2learn(directory: Path) -> Path:
    """Return the unpacked source distribution; the package itself does not build on Python 3.11 and newer."""
    unpacked = directory / "learn2learn-0.2.0"
    if not unpacked.exists():
        directory.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation"]
        pip += ["--no-binary", ":all:"]
        done = subprocess.run([*pip, "learn2learn==0.2.0", "-d", str(directory)], check=False)
        if done.returncode:
            return unpacked  # its processes will say that it is not there
        with tarfile.open(directory / "learn2learn-0.2.0.tar.gz") as archive:
            archive.extractall(directory, filter="data")
    return unpacked


def default_contenders(setup: Setup) -> list[str]:
    """Return the engines that `auto` may take for this network on a CPU, without the plain loop, and the peers.

    Of resnet12, whose turns take long, only the first engine and learn2learn.
    """
    learner = setup.learner()
    engines = [name for name in AUTO["cpu"] if ENGINES[name].supports(learner, torch.device("cpu"))]
    if setup.arch == "resnet12":
        return [engines[0], engines[0] + RECOMPUTE, REFERENCE]
    return [*(name for name in engines if name != "reference"), *PEERS]


class Contender:
    """A process that does one task on demand.

    Raises:
        ValueError: it cannot; the message says why.
    """

    def __init__(self, key: Key, task: str, peers: Path, threads: int, setup: Setup, *, cpu_time: bool = False) -> None:
        name, allocator = key
        self._cpu = cpu_time
        command = [sys.executable, str(HERE / "contender.py"), name, str(peers), str(threads), allocator, task]
        command.append(json.dumps(dataclasses.asdict(setup)))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peak = 0

    def wait(self) -> None:
        """Wait until it is ready."""
        word, _, rest = self._line().partition(" ")
        if word != "ready":
            raise ValueError(rest or "its process ended")

    def turn(self) -> tuple[float, float, float]:
        """Do the task once; return seconds, the value it computed and the norm of its meta-gradient."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._line()
        if not line:
            raise ValueError("its process ended, perhaps without memory")
        wall, cpu, value, gradient, self.peak = map(float, line.split())
        return cpu if self._cpu else wall, value, gradient

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Task:
    """One task, and the contenders that can do it.

    Args:
        name: of the task.
        keys: the contenders.
        peers: where learn2learn is.
        threads: CPU threads.
        setup: the network and the episodes.
        cpu_time: whether to measure CPU time.
    """

    def __init__(
        self, name: str, keys: list[Key], peers: Path, threads: int, setup: Setup, *, cpu_time: bool = False
    ) -> None:
        self.name, self.failures = name, {}
        self._contenders = {key: Contender(key, name, peers, threads, setup, cpu_time=cpu_time) for key in keys}
        self._times: dict[Key, list[float]] = {}
        for key in keys:
            try:
                self._contenders[key].wait()
            except ValueError as error:
                self.failures[key[0]] = str(error)
                self._contenders.pop(key).close()

    def run(self, rounds: int) -> None:
        """Compare what the contenders compute, and then time them."""
        self._compare()
        keys = list(self._contenders)
        self._times = {key: [] for key in keys}
        for number in range(rounds):
            progress(f"{self.name}: round {number + 1} of {rounds}")
            first = number % len(keys)
            for key in keys[first:] + keys[:first]:
                self._times[key].append(self._contenders[key].turn()[0])
        for contender in self._contenders.values():
            contender.close()

    def rows(self) -> list[str]:
        """Return the table's rows."""
        return [
            f"| {self.name} | {name} | {allocator} | {statistics.median(times):.3f} "
            f"| {self._ratio((name, allocator), 'plain')} | {self._ratio((name, allocator), 'keep')} "
            f"| {self._contenders[name, allocator].peak / 1024:.0f} | {self._memory_ratio((name, allocator))} |"
            for (name, allocator), times in self._times.items()
        ]

    def _compare(self) -> None:
        progress(f"{self.name}: comparing {len(self._contenders)} processes")
        computed = {}
        for key in list(self._contenders):
            try:
                computed[key] = self._contenders[key].turn()[1:]
            except ValueError as error:
                self.failures[key[0]] = str(error)
                self._contenders.pop(key).close()
        for what in zip(*computed.values(), strict=True):
            if max(what) - min(what) > CHECKED[self.name] * abs(max(what)):
                raise SystemExit(f"the contenders do not compute the same: {self.name} {computed}")

    def _ratio(self, key: Key, allocator: str) -> str:
        theirs = self._times.get((REFERENCE, allocator))
        if theirs is None:
            return "-"
        if key == (REFERENCE, allocator):
            return "1"
        ratios = [a / b for a, b in zip(theirs, self._times[key], strict=True)]
        if len(ratios) < 2:
            return f"{ratios[0]:.2f}"
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return f"{middle:.2f} ({low:.2f}-{high:.2f})"

    def _memory_ratio(self, key: Key) -> str:
        reference = self._contenders.get((REFERENCE, "plain"))
        return f"{self._contenders[key].peak / reference.peak:.2f}" if reference else "-"


def progress(message: str) -> None:
    """Say on stderr what is being done."""
    sys.stderr.write(message + "\n")


def parse() -> argparse.Namespace:
    """Return what the command line asks for."""
    known = [*ENGINES, *(name + RECOMPUTE for name in ENGINES), *PEERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default 5; 0: only download learn2learn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: one per core")
    parser.add_argument("--tasks", nargs="+", choices=list(WORK), help="default: all; of resnet12 the updates")
    parser.add_argument("--contenders", nargs="+", choices=known)
    parser.add_argument("--allocators", nargs="+", default=list(ALLOCATORS), choices=ALLOCATORS)
    parser.add_argument("--peers", type=Path, default=Path("build/peers"), help="where learn2learn is unpacked")
    parser.add_argument("--arch", default="conv4", choices=list(BODIES))
    parser.add_argument("--filters", type=int, default=FILTERS, help="of conv4 and conv6")
    parser.add_argument("--widths", type=_numbers, default=Setup.widths, help="of resnet12: 64,160,320,640")
    parser.add_argument("--image-size", type=int, default=SIZE)
    parser.add_argument("--shots", type=int, default=N_SHOT, help="support images per class")
    parser.add_argument("--queries", type=int, default=N_QUERY, help="query images per class")
    parser.add_argument("--steps", type=int, help="inner steps of maml; default 5")
    parser.add_argument("--episodes", type=int, help="per turn; default 4, of resnet12 1")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, for a machine that is not idle")
    parser.add_argument("--scaling", action="store_true", help="instead: cost against steps, episodes, ways and size")
    parser.add_argument("--memory", action="store_true", help="instead: peak memory of maml, 1 and 5 shots and steps")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def setup_of(options: argparse.Namespace) -> Setup:
    """Return the network and the episodes."""
    return Setup(
        arch=options.arch,
        filters=options.filters,
        widths=options.widths,
        size=options.image_size,
        n_shot=options.shots,
        n_query=options.queries,
        steps=options.steps,
        episodes=options.episodes,
    )


def compare(options: argparse.Namespace) -> None:
    """Print the tables of the comparison."""
    setup = setup_of(options)
    contenders = options.contenders or default_contenders(setup)
    tasks = options.tasks or list(TRAINING_STEPS if setup.arch == "resnet12" else WORK)
    peers = fetch_learn2learn(options.peers) if REFERENCE in contenders else options.peers
    write = sys.stdout.write
    write(
        heading(options.threads, SEED)
        + f"; {options.rounds} rounds{', CPU time' if options.cpu_time else ''}.\n\n{setup}.\n\n"
    )
    write(HEADER)
    failures: dict[str, str] = {}
    keys = [
        (name, allocator)
        for name in contenders
        for allocator in options.allocators
        if name not in COMPILED or allocator == options.allocators[0]
    ]
    for name in tasks:
        task = Task(name, keys, peers, options.threads, setup, cpu_time=options.cpu_time)
        task.run(options.rounds)
        failures |= task.failures
        write("\n".join(task.rows()) + "\n")
        sys.stdout.flush()
    for name, reason in failures.items():
        write(f"\n**{name} did not run**: {reason}\n")
    write(f"\n{NOTE}" + "".join(f"- {name}: {WORK[name]}.\n" for name in tasks))


def compare_memory(options: argparse.Namespace) -> None:
    """Print the peak memory of one maml update of one episode, each contender alone, one after another."""
    setup = setup_of(options)
    engine = default_contenders(setup)[0]
    contenders = options.contenders or [engine, engine + RECOMPUTE, REFERENCE, "higher"]
    peers = fetch_learn2learn(options.peers)
    write = sys.stdout.write
    write(heading(options.threads, SEED) + f"; one turn each, allocator `plain`.\n\n{setup}.\n\n")
    write(
        f"| shots | steps | {' | '.join(f'{name}, MB' for name in contenders)} |\n|{'---|' * (2 + len(contenders))}\n"
    )
    for shots, steps in itertools.product((1, 5), (1, 5)):
        cells = []
        for name in contenders:
            progress(f"{shots} shots, {steps} steps: {name}")
            task = dataclasses.replace(setup, n_shot=shots, steps=steps, episodes=1)
            contender = Contender((name, "plain"), "maml", peers, options.threads, task)
            try:
                contender.wait()
                contender.turn()
                cells.append(f"{contender.peak / 1024:.0f}")
            except ValueError as error:
                cells.append(str(error))
            contender.close()
        write(f"| {shots} | {steps} | {' | '.join(cells)} |\n")
        sys.stdout.flush()


def main() -> None:
    """Print the tables."""
    options = parse()
    if options.rounds == 0:
        sys.exit(0 if fetch_learn2learn(options.peers).exists() else "learn2learn cannot be downloaded")
    if options.scaling:
        from scaling import measure

        measure(options.rounds, options.threads, setup_of(options), progress)
    elif options.memory:
        compare_memory(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
