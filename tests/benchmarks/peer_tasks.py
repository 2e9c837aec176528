"""The tasks, done with a peer; each peer is used as its own documentation uses it."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from work import JUDGING_STEPS, PROTOCOLS, RATE, Done, PeerNet, Setup, each, plain

from nilr.episodes import Episode


class Peer(Protocol):
    """A library that adapts.

    Attributes:
        net: the network at its meta-initialisation.
        rates: learned rates of the task `metasgd`.
    """

    net: PeerNet
    rates: list[Tensor]

    def adapted(self, task: str, episode: Episode, *, steps: int, second_order: bool) -> AbstractContextManager[Any]:
        """Return a context in which stands a network that was adapted to the episode's support set."""


class PeerTasks:
    """The tasks with one peer.

    Args:
        peer: the library.
        batch: the episodes.
        setup: the network.
    """

    def __init__(self, peer: Peer, batch: Episode, setup: Setup) -> None:
        self._peer, self._batch, self._setup = peer, plain(batch), setup

    def train(self, task: str) -> Done:
        leaves = [*self._peer.net.parameters(), *self._peer.rates]
        for leaf in leaves:
            leaf.grad = None
        total = 0.0
        for episode in each(self._batch):
            with self._peer.adapted(task, episode, steps=self._setup.training_steps(task), second_order=True) as net:
                loss = F.cross_entropy(net(episode.query_x), episode.query_y)
                (loss / len(self._batch)).backward()
                total += float(loss.detach())
        if task == "metasgd" and any(rate.grad is None for rate in self._peer.rates):
            raise SystemExit("a rate was not learned")
        norms = [p.grad.norm() for p in self._peer.net.parameters() if p.grad is not None]
        return Done(total / len(self._batch), float(torch.stack(norms).norm()))

    def evaluate(self) -> Done:
        total = 0.0
        for episode in each(self._batch):
            with self._judging(episode, JUDGING_STEPS) as net:
                total += float(F.cross_entropy(net(episode.query_x), episode.query_y))
        return Done(total / len(self._batch))

    def probe(self) -> Done:
        total = 0.0
        for protocol in PROTOCOLS:
            for i, judged in enumerate(each(self._batch)):
                seen = self._batch[i - 1] if protocol == "cross-task" else judged
                with self._judging(seen, 0 if protocol == "meta-init" else JUDGING_STEPS) as net:
                    total += nearest_accuracy(net, judged)
        return Done(total / len(self._batch))

    @contextmanager
    def _judging(self, episode: Episode, steps: int) -> Iterator[Any]:
        with self._peer.adapted("maml", episode, steps=steps, second_order=False) as net, torch.no_grad():
            yield net


def nearest_accuracy(net: Any, episode: Episode) -> float:
    """Return how often the support image nearest by cosine has the query's label."""
    query, support = (F.normalize(net(x, features=True)) for x in (episode.query_x, episode.support_x))
    return share(episode.support_y[(query @ support.T).argmax(1)], episode.query_y)


def share(said: Tensor, true: Tensor) -> float:
    return (said == true).double().mean().item()


def support_loss(net: Any, episode: Episode) -> Tensor:
    return F.cross_entropy(net(episode.support_x), episode.support_y)


class Learn2Learn:
    """learn2learn 0.2.0, from the two files that need no more than torch.

    Args:
        directory: where it is unpacked.
        net: the network.
        rate: fixed for `maml`, and where learned rates start for `metasgd`.
    """

    def __init__(self, directory: Path, net: PeerNet, rate: float = RATE) -> None:
        for name in ("learn2learn", "learn2learn.algorithms"):  # its own __init__ needs what does not build
            module = types.ModuleType(name)
            module.__path__ = [str(directory.joinpath(*name.split(".")))]
            sys.modules[name] = module
        from learn2learn.algorithms.maml import MAML  # type: ignore[import-not-found]
        from learn2learn.algorithms.meta_sgd import MetaSGD  # type: ignore[import-not-found]

        self.net = net
        self._models = {"maml": MAML(self.net, lr=rate), "metasgd": MetaSGD(self.net, lr=rate)}
        self.rates = list(self._models["metasgd"].lrs)

    @contextmanager
    def adapted(self, task: str, episode: Episode, *, steps: int, second_order: bool) -> Iterator[Any]:
        how = {"first_order": not second_order} if task == "maml" else {}
        learner = self._models[task].clone(**how)
        for _ in range(steps):
            learner.adapt(support_loss(learner, episode))
        yield learner.module


class Higher:
    """higher 0.2.1."""

    def __init__(self, _directory: Path, net: PeerNet) -> None:
        import higher

        self._innerloop = higher.innerloop_ctx
        self.net = net
        self.rates = [torch.full_like(p, RATE, requires_grad=True) for p in self.net.parameters()]
        groups = [{"params": [p]} for p in self.net.parameters()]  # a rate per tensor needs a group per tensor
        self._ways: dict[str, tuple[torch.optim.Optimizer, dict[str, Any] | None]] = {
            "maml": (torch.optim.SGD(self.net.parameters(), lr=RATE), None),
            "metasgd": (torch.optim.SGD(groups, lr=RATE), {"lr": self.rates}),
        }

    @contextmanager
    def adapted(self, task: str, episode: Episode, *, steps: int, second_order: bool) -> Iterator[Any]:
        optimiser, override = self._ways[task]
        way = {"copy_initial_weights": not second_order, "track_higher_grads": second_order, "override": override}
        with self._innerloop(self.net, optimiser, **way) as (net, differentiable):
            for _ in range(steps):
                differentiable.step(support_loss(net, episode))
            yield net


class TorchOpt:
    """torchopt 0.7.3. Its own MetaSGD has one rate for all, so a rate per element is a transformation of gradients."""

    def __init__(self, _directory: Path, net: PeerNet) -> None:
        import torchopt
        from torchopt import pytree
        from torchopt.base import EmptyState, GradientTransformation
        from torchopt.utils import extract_module_containers

        self._torchopt = torchopt
        self.net = net
        in_its_order = pytree.tree_flatten_as_tuple(extract_module_containers(self.net, with_buffers=False)[0])[0]
        self.rates = [torch.full_like(p, RATE, requires_grad=True) for p in in_its_order]

        def update(updates: Any, state: Any, *, params: Any = None, inplace: bool = True) -> Any:
            return tuple(-rate * update for rate, update in zip(self.rates, updates, strict=True)), state

        by_element = GradientTransformation(lambda _: EmptyState(), update)
        self._optimisers = {
            "maml": torchopt.MetaSGD(self.net, lr=RATE),
            "metasgd": torchopt.MetaOptimizer(self.net, by_element),
        }

    @contextmanager
    def adapted(self, task: str, episode: Episode, *, steps: int, second_order: bool) -> Iterator[Any]:
        optimiser = self._optimisers[task]
        states = [(part, self._torchopt.extract_state_dict(part)) for part in (self.net, optimiser)]
        for _ in range(steps):
            optimiser.step(support_loss(self.net, episode))
            if not second_order:
                self._torchopt.stop_gradient(self.net)
        yield self.net
        for part, state in states:
            self._torchopt.recover_state_dict(part, state)


PEERS = {"learn2learn": Learn2Learn, "higher": Higher, "torchopt": TorchOpt}
