"""The tasks, done with nilr's own engines and its own loops."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor
from work import JUDGING_STEPS, PROTOCOLS, RATE, TRAINING_STEPS, Done, Setup, each

from nilr.episodes import Episode
from nilr.meta.algorithms import ALGORITHMS
from nilr.meta.engine.contract import Objective
from nilr.meta.engine.registry import choose_engine
from nilr.meta.engine.workers import in_order
from nilr.probes.conditions import Condition, Quantity, Subject, read_episode
from nilr.probes.readings import NeighbourAccuracy
from nilr.probes.tasks import Task, Tasks

CPU = torch.device("cpu")
# the peers adapt every parameter
ROWS = {name: dataclasses.replace(ALGORITHMS[name], norm_adapted=True) for name in TRAINING_STEPS}


class NilrTasks:
    """The tasks with one engine.

    Args:
        engine: its name; with `+recompute` it keeps no activations of inner steps.
        batch: the episodes.
        setup: the network.
    """

    def __init__(self, engine: str, batch: Episode, setup: Setup | None = None) -> None:
        self._batch, self._setup = batch, setup or Setup()
        learner = self._setup.learner()
        self._params = learner.initial_params()
        self._rates = {
            "maml": {name: torch.tensor(RATE) for name in self._params},
            "metasgd": {name: torch.full_like(value, RATE) for name, value in self._params.items()},
        }
        name, _, recompute = engine.partition("+")
        self._engine = choose_engine(name, learner, CPU)
        self._engine.recompute = bool(recompute)

    def train(self, task: str) -> Done:
        objective = Objective(ROWS[task], self._setup.training_steps(task))
        outcome = self._engine.meta_gradient(self._params, self._rates[task], self._batch, objective)
        if bool(outcome.inner_lr) != (task == "metasgd"):
            raise SystemExit("a rate was not learned")
        norms = torch.stack([gradient.norm() for gradient in outcome.params.values()])
        return Done(float(outcome.query_loss.mean()), float(norms.norm()))

    def evaluate(self) -> Done:
        rates = self._rates["maml"]

        def one(e: Episode) -> Tensor:
            adapted = self._engine.adapt(self._params, rates, e.support_x, e.support_y, steps=JUDGING_STEPS)
            with torch.no_grad():
                features = self._engine.features(adapted, e.query_x)
                return F.cross_entropy(F.linear(features, adapted["head.weight"], adapted["head.bias"]), e.query_y)

        return Done(float(torch.stack(list(in_order(one, each(self._batch), device=CPU))).mean()))

    def probe(self) -> Done:
        subject = Subject(self._params, self._rates["maml"], JUDGING_STEPS, self._engine)
        accuracy = NeighbourAccuracy("nearest", "cosine")
        quantities = [Quantity(Condition(protocol), accuracy) for protocol in PROTOCOLS]

        def one(i: int) -> float:
            tasks = Tasks(self._batch[i], {Task("same-task"): self._batch[i], Task("cross-task"): self._batch[i - 1]})
            return sum(read_episode(subject, tasks, quantities).values())

        return Done(sum(in_order(one, range(len(self._batch)), device=CPU)) / len(self._batch))
