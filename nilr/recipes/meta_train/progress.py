"""How trainings that run together report their progress: updates, validations, and the time left for both."""

import time
from collections.abc import Sequence

from nilr.recipes.common.tasks import Message, with_name
from nilr.recipes.meta_train.training import Training
from nilr.reporting import Pace, Reporter


class TrainingProgress:
    """Reports through the first training's reporter."""

    def __init__(self, trainings: Sequence[Training]) -> None:
        self._trainings = trainings
        self._reporter, self._settings = trainings[0].reporter, trainings[0].settings
        self._update, self._episode = Pace(), Pace()
        self._last = time.monotonic()
        title = "meta-train"
        if len(trainings) > 1:
            title += f" of {len(trainings)} models, figures of {trainings[0].name}"
        self._reporter.stage(title, self._settings.outer_steps, done=self.completed, unit="updates")

    @property
    def completed(self) -> int:
        """The number of updates that all trainings have completed."""
        return min(training.progress.outer_step for training in self._trainings)

    def updated(self) -> None:
        """Report an update of the trainings."""
        self._update.add(1, self._seconds())
        self._reporter.advance()
        self._expect()

    def validated(self, training: Training, episodes: int) -> None:
        """Report the number of validation episodes that a training has completed."""
        self._episode.add(1, self._seconds())
        of = f" of {training.name}" if len(self._trainings) > 1 else ""
        share = episodes / self._settings.eval_episodes
        self._reporter.metric(**{f"validation{of} share": share if share < 1 else None})
        self._expect(episodes)

    def _seconds(self) -> float:
        last, self._last = self._last, time.monotonic()
        return self._last - last

    def _expect(self, episodes: int = 0) -> None:
        """Report the time left, when some episodes of the current validation are completed."""
        settings, algorithm = self._settings, self._trainings[0].outer.algorithm
        update = self._update.seconds(1)
        # Until one is measured: images that go through the network, three times as many where gradients are computed.
        # The gradient of an update through its inner steps makes it three times more expensive.
        evaluated = 3 * algorithm.eval_inner_steps * settings.n_shot + settings.n_query
        updated = 3 * (3 * algorithm.inner_steps * settings.n_shot + settings.n_query)
        guess = update / settings.meta_batch_size / len(self._trainings) * evaluated / updated
        validations = sum(settings.validations_after(one.progress.validated_at) for one in self._trainings)
        left = validations * settings.eval_episodes - episodes
        seconds = (settings.outer_steps - self.completed) * update + self._episode.seconds(left, guess)
        self._reporter.expect(seconds)


class JobsProgress:
    """Reports trainings that are jobs of a cluster."""

    def __init__(self, names: Sequence[str], reporter: Reporter) -> None:
        self._shares, self._reporter = dict.fromkeys(names, 0.0), reporter
        reporter.stage("meta-train", len(names), unit="models")

    def begin(self, name: str) -> None:
        """Show a training whose job is submitted."""
        self._reporter.metric(**{f"{name} share": 0.0})

    def handle(self, name: str, message: Message | None, jobs: int) -> None:
        """Report a message of a training's job, or None if it has ended."""
        if isinstance(message, str):
            self._reporter.note(with_name(name, message))
            return
        self._shares[name] = 1.0 if message is None else message[1]
        self._reporter.metric(**{f"{name} share": None if message is None else message[1]})
        if message is None:
            self._reporter.advance()
        self._reporter.expect(None, sum(self._shares.values()) / len(self._shares))

    def stop(self, name: str) -> None:
        """Show that a training's job has ended before its time."""
        self._reporter.metric(**{f"{name} share": None})
