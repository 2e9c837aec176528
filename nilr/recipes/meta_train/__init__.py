"""Meta-train: a pack -> a model in the store."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from nilr import distributed
from nilr.config.meta_train import TrainSettings
from nilr.errors import Interrupted
from nilr.recipes.common.cluster import Cluster, check_cluster
from nilr.recipes.common.evaluation_pack import probe_command
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.settings import recorded_settings
from nilr.recipes.common.tasks import Relay, Task, execute
from nilr.recipes.meta_train.loop import train_together
from nilr.recipes.meta_train.progress import JobsProgress
from nilr.recipes.meta_train.start import Starter, check_loggers, job_settings, settings_by_seed
from nilr.recipes.meta_train.training import Training
from nilr.reporting import NotesOnly, Reporter
from nilr.results.commands import TrainMetrics
from nilr.results.result import Result, to_json
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
    check_cluster(settings)
    check_loggers(settings)
    outcome = Outcome(settings)
    store = Store(settings.home)
    if settings.cluster is not None:
        return _run_as_jobs(settings, store, outcome, reporter)
    with contextlib.ExitStack() as resources:
        starter = Starter(store, resources, reporter, n_models=len(settings.each_seed))
        trainings: list[Training] = []
        for seed_settings, name in settings_by_seed(settings):
            trainings.append(starter.start(seed_settings, name, NotesOnly(reporter) if trainings else reporter))
        with stopping_gracefully() as stop:
            train_together(trainings, stop)
        for training in trainings:
            training.log_final()
        first = trainings[0]
        device = first.train.images.device
        how: dict[str, Any] = {"engine": first.settings.engine, "code": [first.settings.arch]}
        models = distributed.from_first(
            lambda: [load_model(store, str(one.directory / LAST), device=device, **how).used for one in trainings]
        )
    names = [training.name for training in trainings]
    config = recorded_settings(first.settings) | {"seed": first.settings.seed, "data": first.data.name}
    return outcome.result(
        _metrics({training.name: training.metrics() for training in trainings}),
        config=config | _together(settings, names),
        models=[model.model_copy(update={"name": name}) for model, name in zip(models, names, strict=True)],
        data=first.data,
        notes=starter.notes,
        environment=environment(
            device, first.outer.engine.name, captured=first.outer.captured, recompute=first.outer.engine.recompute
        ),
    )


def _run_as_jobs(settings: TrainSettings, store: Store, outcome: Outcome, reporter: Reporter) -> Result[TrainMetrics]:
    """Train each model in a job of a cluster."""
    each = [job_settings(one, store, name) for one, name in settings_by_seed(settings)]
    slots = len(each)
    if settings.cluster == "local":
        threads = settings.threads or torch.get_num_threads()
        slots = min(slots, threads)
        each = [one.model_copy(update={"threads": max(1, threads // slots)}) for one in each]
    tasks = [Task(str(one.name), _train, (one,)) for one in each]
    names = [task.name for task in tasks]
    progress = JobsProgress(names, reporter)
    try:
        found = execute(tasks, Cluster(settings, store.jobs_path("meta-train"), slots), progress, reporter)
    except Interrupted as interrupted:
        hint = f"`{store.command('models', 'ls')}` shows what the jobs have saved; --resume NAME continues a model"
        raise Interrupted(interrupted.signum, hint=hint) from None
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                store.model_dir(name).rmdir()  # of a job that did not begin
    results = [Result[TrainMetrics].model_validate_json(found[name]) for name in names]
    first = results[0]
    return outcome.result(
        _metrics({name: result.metrics for name, result in zip(names, results, strict=True)}),
        config=first.config | _together(settings, names),
        models=[model for result in results for model in result.models],
        data=first.data,
        notes=[*dict.fromkeys(note for result in results for note in result.notes)],
        environment=first.environment,
    )


def _train(relay: Relay, settings: TrainSettings) -> str:
    """Train one model in a job; return the result as JSON."""
    relay.begin("training")
    return to_json(run(settings, relay))


def _together(settings: TrainSettings, names: Sequence[str]) -> dict[str, Any]:
    seeds = settings.model_dump(mode="json")["seeds"]
    return {"seeds": seeds, "name": names[0] if len(names) == 1 else [*names]}


def next_command(settings: TrainSettings, result: Result[TrainMetrics]) -> str:
    """Return the command that evaluates the models."""
    by_path = "/" in settings.resume
    references = [settings.resume] if by_path else [model.name for model in result.models]
    return probe_command(settings, references, data=settings.data)


def _metrics(by_model: dict[str, TrainMetrics]) -> TrainMetrics:
    """Return the metrics of one model, or the means over several with each model's own metrics beside them."""
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
