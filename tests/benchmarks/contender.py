"""One contender of `peers.py` in a process of its own: does each task it reads once, and prints seconds and memory.

    python contender.py CONTENDER PEERS_DIRECTORY THREADS keep|plain

The network, its parameters, the episodes and the tasks are the same for all.
"""

from __future__ import annotations

import resource
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nilr.config import PROTOCOLS
from nilr.episodes import Episode, EpisodeSampler, PackedImages
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.registry import choose_engine
from nilr.meta.engine.workers import in_order
from nilr.meta.evaluation import learner_logits
from nilr.models.registry import build_learner
from nilr.probes.conditions import Condition, Subject, Tasks, read_episode
from nilr.probes.protocols import NeighbourAccuracy
from nilr.runtime import keep_freed_memory

N_EPISODES, SIZE, FILTERS = 4, 84, 32
STEPS = {"maml": 5, "metasgd": 1}
RATE = 0.01
CPU = torch.device("cpu")


def episodes() -> Episode:
    """Return 4 5-way 1-shot episodes with 15 queries per class."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (20 * 20, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
    return EpisodeSampler(PackedImages(pixels, (20,) * 20), 5, 1, 15, 0, "bench").draw(range(N_EPISODES))


class Nilr:
    """The product, by its own engines."""

    def __init__(self, engine: str, batch: Episode) -> None:
        self.batch = batch
        self.learner = build_learner("conv4", n_way=5, image_size=SIZE, filters=FILTERS, seed=0)
        self.params = self.learner.initial_params()
        self.rates = {name: torch.full_like(value, RATE) for name, value in self.params.items()}
        self.engine = choose_engine(engine, self.learner, CPU)

    def train(self, task: str) -> float:
        outcome = self.engine.meta_gradient(
            self.learner, self.params, self.rates, ALGORITHMS["metasgd"], self.batch, steps=STEPS[task]
        )
        return float(outcome.query_loss.mean())

    def evaluate(self) -> float:
        def one(i: int) -> Tensor:
            e = self.batch[i]
            adapted = self.engine.adapt(self.learner, self.params, self.rates, e.support_x, e.support_y, steps=10)
            with torch.no_grad():
                return F.cross_entropy(learner_logits(self.engine, self.learner, adapted, e.query_x), e.query_y)

        return float(torch.stack(list(in_order(one, range(N_EPISODES), device=CPU))).mean())

    def probe(self) -> float:
        subject = Subject(self.learner, self.params, self.rates, 10, self.engine)
        readings = {"accuracy": NeighbourAccuracy("nearest", "cosine")}
        asked = {Condition(protocol): readings for protocol in PROTOCOLS}

        def one(i: int) -> float:
            tasks = Tasks(self.batch[i], {"same-task": self.batch[i], "cross-task": self.batch[i - 1]})
            seen = read_episode(subject, tasks, asked, batch_stats="apart")
            return sum(values["accuracy"] for values in seen.values())

        return sum(in_order(one, range(N_EPISODES), device=CPU)) / N_EPISODES


class PeerNet(nn.Module):
    """Conv4 as a peer's user writes it, with nilr's parameters."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(
                nn.Conv2d(3 if i == 0 else FILTERS, FILTERS, 3, padding=1, bias=False),
                nn.BatchNorm2d(FILTERS, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            for i in range(4)
        ]
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(FILTERS * (SIZE // 16) ** 2, 5)
        params = build_learner("conv4", n_way=5, image_size=SIZE, filters=FILTERS, seed=0).initial_params()
        with torch.no_grad():
            for own, given in zip(self.parameters(), params.values(), strict=True):
                own.copy_(given)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]


class Learn2Learn:
    """learn2learn 0.2.0's MAML and Meta-SGD, used as its examples use them."""

    def __init__(self, directory: Path, batch: Episode) -> None:
        for name in ("learn2learn", "learn2learn.algorithms"):  # its own __init__ needs what does not build
            module = types.ModuleType(name)
            module.__path__ = [str(directory.joinpath(*name.split(".")))]
            sys.modules[name] = module
        from learn2learn.algorithms.maml import MAML  # type: ignore[import-not-found]
        from learn2learn.algorithms.meta_sgd import MetaSGD  # type: ignore[import-not-found]

        plain = [tensor.contiguous() for tensor in (batch.support_x, batch.query_x)]
        self.batch = Episode(plain[0], batch.support_y, plain[1], batch.query_y)
        self.models = {"maml": MAML(PeerNet(), lr=RATE), "metasgd": MetaSGD(PeerNet(), lr=RATE)}

    def _adapted(self, task: str, episode: Episode, steps: int, **clone: bool) -> nn.Module:
        learner = self.models[task].clone(**clone)
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(episode.support_x), episode.support_y))
        return learner  # type: ignore[no-any-return]

    def train(self, task: str) -> float:
        self.models[task].zero_grad()
        total = 0.0
        for i in range(N_EPISODES):
            learner = self._adapted(task, self.batch[i], STEPS[task])
            loss = F.cross_entropy(learner(self.batch[i].query_x), self.batch[i].query_y)
            (loss / N_EPISODES).backward()
            total += float(loss.detach())
        return total / N_EPISODES

    def evaluate(self) -> float:
        losses = []
        for i in range(N_EPISODES):
            learner = self._adapted("maml", self.batch[i], 10, first_order=True)
            with torch.no_grad():
                losses.append(F.cross_entropy(learner(self.batch[i].query_x), self.batch[i].query_y))
        return float(torch.stack(losses).mean())

    def probe(self) -> float:
        total = 0.0
        for protocol in PROTOCOLS:
            for i in range(N_EPISODES):
                b, a = self.batch[i], self.batch[i - 1]
                task, steps = (b, 0) if protocol == "meta-init" else (b if protocol == "same-task" else a, 10)
                body = self._adapted("maml", task, steps, first_order=True).module.body
                with torch.no_grad():
                    near = F.normalize(body(b.query_x)) @ F.normalize(body(b.support_x)).T
                total += (b.support_y[near.argmax(1)] == b.query_y).double().mean().item()
        return total / N_EPISODES


def main() -> None:
    name, directory, threads, allocator = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if allocator == "keep":
        keep_freed_memory()
    batch = episodes()
    subject = Learn2Learn(Path(directory), batch) if name == "learn2learn" else Nilr(name, batch)
    tasks: dict[str, Callable[[], float]] = {
        "maml": lambda: subject.train("maml"),
        "metasgd": lambda: subject.train("metasgd"),
        "evaluation": subject.evaluate,
        "probe": subject.probe,
    }
    for line in sys.stdin:
        began = time.perf_counter()
        value = tasks[line.strip()]()
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sys.stdout.write(f"{seconds} {value} {peak}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
