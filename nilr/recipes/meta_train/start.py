"""What a training starts from: an outer loop at its seed's weights and rates."""

from __future__ import annotations

import torch

from nilr.config import TrainSettings
from nilr.episodes import stream_seed
from nilr.meta.algorithms import Algorithm
from nilr.meta.captured import Capture, capture_on
from nilr.meta.engine.registry import choose_engine
from nilr.meta.inner_lr import initial_rates
from nilr.meta.outer_loop import OuterLoop, OuterSettings
from nilr.models.registry import body_arguments, build_learner
from nilr.reporting import Reporter


class OuterLoops:
    """Makes the outer loops of one command, whose work is captured together or not at all.

    Args:
        reporter: told why it could not be captured.

    Attributes:
        notes: the same, for the result.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.notes: list[str] = []
        self._reporter = reporter
        self._captures: dict[torch.device, Capture | None] = {}

    def make(self, settings: TrainSettings, row: Algorithm, image_size: int, device: torch.device) -> OuterLoop:
        """Return the outer loop of a training.

        Args:
            settings: resolved.
            row: the algorithm, as resolved.
            image_size: of the pack.
            device: where to train.

        Raises:
            NilrError: the settings name what there is not.
        """
        learner = build_learner(
            settings.arch,
            n_way=settings.n_way,
            image_size=image_size,
            **body_arguments(settings.arch, settings),
            seed=stream_seed(settings.seed, "weights"),
        )
        params = {name: value.to(device) for name, value in learner.initial_params().items()}
        engine = choose_engine(settings.engine, learner, device, settings.precision, settings.episode_chunk)
        if device not in self._captures:
            self._captures[device] = capture_on(device, self._note)
        return OuterLoop(
            row,
            params,
            initial_rates(row, params, learner.kinds, stream_seed(settings.seed, "rates")),
            engine=engine,
            settings=OuterSettings(
                settings.outer_lr,
                settings.grad_clip,
                row.inner_steps,
                settings.outer_steps,
                settings.outer_lr_schedule,
                settings.multi_step_loss,
            ),
            capture=self._captures[device] if engine.capturable else None,
        )

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self._reporter.note(text)
