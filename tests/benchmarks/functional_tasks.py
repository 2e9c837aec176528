"""The tasks as one pure function of the parameters, differentiated and compiled: torch.func and JAX.

Each compiles the meta-gradient of one episode, which the first turn does; the episodes of a batch follow one another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from work import JUDGING_STEPS, PROTOCOLS, RATE, Done, PeerNet, Setup, each, plain

from nilr.episodes import Episode

Params = dict[str, Any]


class FunctionalTasks:
    """The tasks, written with the few operations in which the two libraries differ.

    Args:
        batch: the episodes.
        setup: the network.
    """

    params: Params

    def __init__(self, batch: Episode, setup: Setup) -> None:
        self._batch = [self.arrays(episode) for episode in each(plain(batch))]
        self._steps = {task: setup.training_steps(task) for task in ("maml", "metasgd")}

    def arrays(self, episode: Episode) -> tuple[Any, ...]:
        """Return support images, their labels, query images and their labels, as the library's arrays."""
        raise NotImplementedError

    def features(self, params: Params, x: Any) -> Any:
        """Return features, (n, d)."""
        raise NotImplementedError

    def loss(self, params: Params, x: Any, y: Any) -> Any:
        """Return the mean cross-entropy."""
        raise NotImplementedError

    def nearest(self, query: Any, support: Any) -> Any:
        """Return the index of the support image nearest by cosine, (n,)."""
        raise NotImplementedError

    grad: Callable[..., Any]
    """Like `torch.func.grad`."""
    value_and_grad: Callable[..., Any]
    """Like `jax.value_and_grad`."""
    compile: Callable[..., Any]
    """Like `jax.jit`."""

    def step(self, params: Params, rates: Params | float, x: Any, y: Any) -> Params:
        """Return parameters after one inner step."""
        gradients = self.grad(self.loss)(params, x, y)
        each_rate = rates if isinstance(rates, dict) else dict.fromkeys(params, rates)
        return {name: value - each_rate[name] * gradients[name] for name, value in params.items()}

    def query_loss(self, learned: tuple[Params, Params | float], episode: tuple[Any, ...], steps: int) -> Any:
        """Return the query loss after `steps` inner steps."""
        params, rates = learned
        support_x, support_y, query_x, query_y = episode
        for _ in range(steps):
            params = self.step(params, rates, support_x, support_y)
        return self.loss(params, query_x, query_y)

    def train(self, task: str) -> Done:
        total, gradients = 0.0, dict.fromkeys(self.params, 0.0)
        for episode in self._batch:
            value, gradient = self._meta_gradient(task)(episode)
            total += float(value)
            gradients = {name: gradients[name] + gradient[name] for name in gradients}
        n = len(self._batch)
        return Done(total / n, sum(float((g * g).sum()) for g in gradients.values()) ** 0.5 / n)

    def evaluate(self) -> Done:
        loss = self._compiled("loss", self.loss)
        total = sum(float(loss(self._adapted(episode), *episode[2:])) for episode in self._batch)
        return Done(total / len(self._batch))

    def probe(self) -> Done:
        features, nearest = self._compiled("features", self.features), self._compiled("nearest", self.nearest)
        total = 0.0
        for protocol in PROTOCOLS:
            for i, (support_x, support_y, query_x, query_y) in enumerate(self._batch):
                task = self._batch[i - 1] if protocol == "cross-task" else self._batch[i]
                params = self.params if protocol == "meta-init" else self._adapted(task)
                predicted = support_y[nearest(features(params, query_x), features(params, support_x))]
                total += float((predicted == query_y).sum()) / len(query_y)
        return Done(total / len(self._batch))

    def _adapted(self, episode: tuple[Any, ...]) -> Params:
        step = self._compiled("step", lambda params, x, y: self.step(params, RATE, x, y))
        params = self.params
        for _ in range(JUDGING_STEPS):
            params = step(params, *episode[:2])
        return params

    def _meta_gradient(self, task: str) -> Callable[[tuple[Any, ...]], tuple[Any, Params]]:
        steps = self._steps[task]
        if task == "maml":
            of_params = self._compiled(
                task,
                self.value_and_grad(lambda params, episode: self.query_loss((params, RATE), episode, steps)),
            )
            return lambda episode: of_params(self.params, episode)
        of_both = self._compiled(
            task, self.value_and_grad(lambda learned, episode: self.query_loss(learned, episode, steps))
        )
        rates = {name: value * 0 + RATE for name, value in self.params.items()}

        def meta_gradient(episode: tuple[Any, ...]) -> tuple[Any, Params]:
            value, (gradient, _) = of_both((self.params, rates), episode)
            return value, gradient

        return meta_gradient

    def _compiled(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[str, Callable[..., Any]] = self.__dict__.setdefault("_functions", {})
        if name not in known:
            known[name] = self.compile(function)
        return known[name]


class TorchFunc(FunctionalTasks):
    """torch.func, compiled by torch.compile."""

    grad = staticmethod(torch.func.grad)
    compile = staticmethod(torch.compile)

    def __init__(self, _directory: Path, batch: Episode, setup: Setup, _threads: int) -> None:
        self._net = PeerNet(setup)
        self.params = {name: value.detach() for name, value in self._net.named_parameters()}
        super().__init__(batch, setup)

    @staticmethod
    def value_and_grad(function: Callable[..., Any]) -> Callable[..., Any]:
        def swapped(*arguments: Any) -> tuple[Any, Any]:
            gradient, value = torch.func.grad_and_value(function)(*arguments)
            return value, gradient

        return swapped

    def arrays(self, episode: Episode) -> tuple[Tensor, ...]:
        return episode.support_x, episode.support_y, episode.query_x, episode.query_y

    def features(self, params: Params, x: Tensor) -> Tensor:
        seen: Tensor = torch.func.functional_call(self._net, params, (x,), {"features": True})
        return seen

    def loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(self._net, params, (x,)), y)

    def nearest(self, query: Tensor, support: Tensor) -> Tensor:
        return (F.normalize(query) @ F.normalize(support).T).argmax(1)


class Jax(FunctionalTasks):
    """JAX, jitted. It knows Conv4 alone. Images are (n, H, W, C), which its convolutions on a CPU prefer.

    Raises:
        ValueError: the network is not Conv4.
    """

    def __init__(self, _directory: Path, batch: Episode, setup: Setup, threads: int) -> None:
        if setup.arch != "conv4":
            raise ValueError(f"{setup.arch} is not written in JAX here")
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # XLA has no number of threads to set
        import jax

        self._jax = jax
        self.grad, self.value_and_grad, self.compile = jax.grad, jax.value_and_grad, jax.jit
        self.params = {name: jax.numpy.asarray(value.detach()) for name, value in PeerNet(setup).named_parameters()}
        super().__init__(batch, setup)

    def arrays(self, episode: Episode) -> tuple[Any, ...]:
        asarray = self._jax.numpy.asarray
        support_x, query_x = (asarray(x.permute(0, 2, 3, 1)) for x in (episode.support_x, episode.query_x))
        return support_x, asarray(episode.support_y), query_x, asarray(episode.query_y)

    def features(self, params: Params, x: Any) -> Any:
        jnp, lax = self._jax.numpy, self._jax.lax
        layout = ("NHWC", "OIHW", "NHWC")
        for i in range(4):
            x = lax.conv_general_dilated(x, params[f"body.{i}.0.0.weight"], (1, 1), "SAME", dimension_numbers=layout)
            x = (x - x.mean((0, 1, 2))) * lax.rsqrt(x.var((0, 1, 2)) + 1e-5)
            x = jnp.maximum(x * params[f"body.{i}.0.1.weight"] + params[f"body.{i}.0.1.bias"], 0)
            n, height, width, channels = x.shape
            windows = x[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, channels)
            x = windows.max((2, 4))
        return x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # the head's weights are in torch's order

    def loss(self, params: Params, x: Any, y: Any) -> Any:
        logits = self.features(params, x) @ params["head.weight"].T + params["head.bias"]
        return -self._jax.nn.log_softmax(logits)[self._jax.numpy.arange(len(y)), y].mean()

    def nearest(self, query: Any, support: Any) -> Any:
        query, support = (x / self._jax.numpy.linalg.norm(x, axis=1, keepdims=True) for x in (query, support))
        return (query @ support.T).argmax(1)


FUNCTIONAL = {"torch.func": TorchFunc, "jax": Jax}
