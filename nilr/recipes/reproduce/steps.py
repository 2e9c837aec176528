"""The steps of an experiment: to train a model, and to ask it everything; what is done already stays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nilr.config.judging import ProbeSettings, RatesSettings
from nilr.recipes import meta_train, probe, rates
from nilr.recipes.reproduce.plan import Plan, Trained, command_of, read_kept
from nilr.reporting import Reporter
from nilr.results.records import DataUsed
from nilr.results.result import Result, write_result

Asked = ProbeSettings | RatesSettings


class Answer(NamedTuple):
    """A result, and the file that keeps it."""

    path: Path
    result: Result[Any]


class Left(NamedTuple):
    """What is not done.

    Attributes:
        train: trainings, in order.
        ask: questions, by model; of one that is not trained all.
    """

    train: list[Trained]
    ask: dict[str, list[Asked]]


class Steps:
    """What an experiment does with one model.

    Args:
        plan: what it is.
        data: the pack.
        reporter: told of the progress.
    """

    def __init__(self, plan: Plan, data: DataUsed, reporter: Reporter) -> None:
        self._plan, self._data, self._reporter = plan, data, reporter

    def left(self) -> Left:
        """Return what of the whole experiment is not done."""
        train = [training for training in self._plan.trainings if not self._trained(training)]
        ask = {}
        for training in self._plan.trainings:
            questions = list(self.questions(training).values())
            if training not in train:
                questions = [asked for asked in questions if self._answer(training, asked)[1] is None]
            if questions:
                ask[training.model] = questions
        return Left(train, ask)

    def train(self, training: Trained) -> None:
        """Train a model, unless that is done."""
        if not self._trained(training):
            trained = meta_train.run(training.settings, self._reporter)
            write_result(self._plan.folder / f"{training.model}.meta-train.json", trained)

    def questions(self, training: Trained) -> Mapping[str, Asked]:
        """Return all that a model is asked: how it is probed, its rates, and each other choice of probing."""
        plan = self._plan
        return {"probe": plan.probe(training), "rates": plan.rates(training), **plan.choices(training)}

    def ask(self, training: Trained, asked: Asked) -> Answer:
        """Return the answer that was kept, or else measure and keep it."""
        path, kept = self._answer(training, asked)
        if kept is None:
            command = probe if isinstance(asked, ProbeSettings) else rates
            kept = command.run(asked, self._reporter)
            write_result(path, kept)
        return Answer(path, kept)

    def _trained(self, training: Trained) -> bool:
        return self._plan.manifest(training, self._data) is not None

    def _answer(self, training: Trained, asked: Asked) -> tuple[Path, Result[Any] | None]:
        path = self._plan.kept(training, asked, self._data)
        return path, read_kept(path, command_of(asked))
