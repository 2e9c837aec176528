"""Meta-train: a pack -> a model in the store."""

import contextlib
from collections.abc import Sequence
from typing import Any

from nilr.config.meta_train import TrainSettings
from nilr.files import check_output
from nilr.recipes.common.loading import load_model, probe_command
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.settings import recorded_settings
from nilr.recipes.meta_train.loop import train_together
from nilr.recipes.meta_train.start import Starter, settings_by_seed
from nilr.recipes.meta_train.training import Training
from nilr.reporting import NotesOnly, Reporter
from nilr.results.commands import TrainMetrics
from nilr.results.result import Result
from nilr.runtime import environment
from nilr.signals import stopping_gracefully
from nilr.store import LAST, Store


@with_memory_hint("a smaller body (--filters, --widths) or pack, or --device cpu", at_once=1)
def run(settings: TrainSettings, reporter: Reporter) -> Result[TrainMetrics]:
    """Train or resume one model, or one model per seed.

    Raises:
        NilrError: the settings name something that is missing or does not fit, or training diverges.
        Interrupted: a signal arrived; the models are saved.
    """
    outcome = Outcome(settings)
    store = Store(settings.home)
    if settings.tensorboard is not None:
        check_output(settings.tensorboard, "--tensorboard", folder=True)
    with contextlib.ExitStack() as resources:
        starter = Starter(store, resources, reporter, n_models=settings.seeds)
        trainings: list[Training] = []
        for seed_settings, name in settings_by_seed(settings):
            trainings.append(starter.start(seed_settings, name, NotesOnly(reporter) if trainings else reporter))
        with stopping_gracefully() as stop:
            train_together(trainings, stop)
        first = trainings[0]
        device = first.train.images.device
        how: dict[str, Any] = {"engine": first.settings.engine, "code": [first.settings.arch]}
        models = [load_model(store, str(one.directory / LAST), device=device, **how) for one in trainings]
    names = [training.name for training in trainings]
    config = recorded_settings(first.settings) | {
        "seeds": settings.seeds,
        "seed": first.settings.seed,
        "data": first.data.name,
        "name": names[0] if len(names) == 1 else [*names],
    }
    return outcome.result(
        _metrics(trainings),
        config=config,
        models=[model.used.model_copy(update={"name": name}) for model, name in zip(models, names, strict=True)],
        data=first.data,
        notes=starter.notes,
        environment=environment(
            device, first.outer.engine.name, captured=first.outer.captured, recompute=first.outer.engine.recompute
        ),
    )


def next_command(settings: TrainSettings, result: Result[TrainMetrics]) -> str:
    """Return the command that evaluates the models."""
    by_path = "/" in settings.resume
    references = [settings.resume] if by_path else [model.name for model in result.models]
    return probe_command(settings, references, data=settings.data)


def _metrics(trainings: Sequence[Training]) -> TrainMetrics:
    """Return the metrics of one training, or the means over several with each training's own metrics beside them."""
    by_model = {training.name: training.metrics() for training in trainings}
    each = list(by_model.values())
    if len(each) == 1:
        return each[0]

    def mean(name: str) -> float | None:
        values = [getattr(metrics, name) for metrics in each]
        return None if None in values else sum(values) / len(values)

    averaged = ("query_loss", "accuracy_before", "accuracy_after", "share_negative", "seconds_per_update")
    return TrainMetrics(
        outer_step=min(metrics.outer_step for metrics in each),
        best_outer_step=None,
        best_val_accuracy=None,
        last_val_accuracy=None,
        skipped_updates=sum(metrics.skipped_updates for metrics in each),
        by_model=by_model,
        **{name: mean(name) for name in averaged},
    )
