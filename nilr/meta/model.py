"""A model: what can adapt to a support set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nilr.meta.algorithms import Algorithm
from nilr.meta.engine.contract import Engine
from nilr.models.learner import Learner


@dataclass(frozen=True, kw_only=True, repr=False)
class Model:
    """A meta-initialisation (or adapted parameters) with its inner rates."""

    learner: Learner  # body and head
    algorithm: Algorithm  # the row that it is or will be trained with
    engine: Engine  # executes its inner loop
    params: Mapping[str, Tensor]  # by name, on one device
    inner_lr: Mapping[str, Tensor]  # the rates of the parameters that the inner loop moves, in a shape of `rate_at`
    inductive: bool = False  # whether it was trained with inductive batch statistics (see `Objective`)
    # name and arguments of the learner's builder, except `n_way`; None: a body in memory
    architecture: tuple[str, Mapping[str, Any]] | None = None

    def __repr__(self) -> str:
        n_way, size = self.learner.head.out_features, sum(value.numel() for value in self.params.values())
        layers = ", ".join(self.learner.body.layers)
        return f"{type(self).__name__}({self.algorithm.name}, {n_way}-way, {size:,} parameters, layers {layers})"
