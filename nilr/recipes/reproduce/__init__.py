"""Reproduce: the whole experiment over seeds, to a finding on each of the paper's four signs."""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from nilr import __version__
from nilr.claims import describe_signs, is_generated, signs, unjudged_signs
from nilr.claims.over_seeds import adjusted, describe_design, design, episode_values
from nilr.claims.runs import EXPLORATORY, GAIN_CAUTION, MeasuredModel, correct_exploratory, run_figures, signs_by_choice
from nilr.config.experiments import EXPERIMENTS
from nilr.config.meta_train import TrainSettings
from nilr.config.packs import PrepareDataSettings
from nilr.config.reproduce import ReproduceSettings
from nilr.config.results import ReportSettings
from nilr.data.pack import open_pack
from nilr.errors import Interrupted, StoreError
from nilr.recipes import prepare_data, report
from nilr.recipes.common.cluster import Cluster, check_cluster
from nilr.recipes.common.outcome import Outcome, data_used
from nilr.recipes.common.pool import Pool
from nilr.recipes.common.processes import KilledError
from nilr.recipes.common.settings import check_body
from nilr.recipes.common.tasks import Relay, Task, execute
from nilr.recipes.reproduce.estimate import estimate_costs, guess_costs
from nilr.recipes.reproduce.plan import (
    ExperimentPlan,
    PlannedModel,
    experiment_folder,
    experiment_name,
    finished_shares,
    measure,
    stored_files,
)
from nilr.recipes.reproduce.progress import ExperimentProgress, work
from nilr.recipes.reproduce.rate_grid import rate_grids
from nilr.reporting import Reporter
from nilr.results.records import DataUsed, ModelUsed
from nilr.results.reproduce import ReproduceMetrics
from nilr.results.result import Result, write_result
from nilr.runtime import environment, prepare
from nilr.store import Store
from nilr.words import counted

MOST_JOBS = 8
CONCLUDED, PAGE, TEXT = "reproduce.json", "report.html", "report.md"

_SECONDS_UNTIL_VISIBLE = 90.0  # the time for which a client of NFS may not show another machine's new files

_FINISHED = "all trainings and probes are finished"
_CONTINUE = "finished work is kept; run the same command again to continue"


def run(settings: ReproduceSettings, reporter: Reporter) -> Result[ReproduceMetrics]:
    """Train and measure all models of an experiment, conclude and report; skip whatever is finished.

    Raises:
        NilrError: the pack is missing, or a step failed.
        Interrupted: a signal arrived; whatever is finished is kept.
    """
    store = Store(settings.home or EXPERIMENTS[settings.preset].home)
    try:
        with store.lock(experiment_name(settings), kind="experiment"):
            return _run(settings, store, reporter)
    except Interrupted as interrupted:
        raise Interrupted(interrupted.signum, hint=_CONTINUE) from None
    except KilledError as error:
        raise KilledError(error.message, hint="; ".join(filter(None, (error.hint, _CONTINUE)))) from error


def _run(settings: ReproduceSettings, store: Store, reporter: Reporter) -> Result[ReproduceMetrics]:
    check_body(settings.arch or TrainSettings().arch, settings)
    check_cluster(settings)
    outcome = Outcome(settings)
    # jobs of Slurm find the device on their own machine
    device = None if settings.cluster == "slurm" else prepare(settings.device, settings.threads, settings.precision)
    pack = settings.data or EXPERIMENTS[settings.preset].data
    plan = ExperimentPlan(settings, store, pack, _open_pack(settings, store, pack, reporter))
    plan.check_classes()
    if (concluded := _read_concluded(plan)) is not None:
        reporter.note(f"{_FINISHED}, and nothing has changed since the report: {plan.folder / PAGE}")
        reporter.files.append(("result", plan.folder / CONCLUDED))
        return concluded
    shares = finished_shares(plan)
    unfinished = [model for model in plan.models if any(share < 1 for share in shares[model.name].values())]
    jobs = number_of_jobs(settings, device, len(unfinished))
    seconds = 0.0
    if unfinished:
        seconds = _finish(plan, unfinished, shares, jobs, device, reporter)
    else:
        reporter.note(_FINISHED)
    results = Results(plan)
    for model in plan.models:
        results.add(model, reporter)
    metrics = results.conclude()
    result = outcome.result(
        metrics,
        config={
            **settings.model_dump(mode="json", exclude={"home", "sources"}),
            "seeds": [model.seed for model in plan.models if model.run == plan.experiment.runs[0]],
            "jobs": jobs,
            "name": plan.name,
            "data": plan.data.name,
            "estimated_seconds": seconds,
            "files_sha256": _digest([*results.files, *results.choice_files], settings.smallest_effect),
        },
        models=results.used,
        data=plan.data,
        notes=_notes(metrics, settings.smallest_effect / 100),
        environment=environment(device, settings.engine),
    )
    _write_report(plan, result, results.files, reporter)
    return result


def _notes(metrics: ReproduceMetrics, smallest_effect: float) -> list[str]:
    if not metrics.signs:
        return [GAIN_CAUTION]
    findings = describe_signs(metrics.signs, smallest_effect)
    return [GAIN_CAUTION, EXPLORATORY, *describe_design(metrics.design), *findings]


def number_of_jobs(settings: ReproduceSettings, device: torch.device | None, models: int) -> int:
    """Return how many models are trained or probed at the same time.

    Args:
        settings: with `jobs` as requested; by default all with Slurm, else one per CPU thread and one on a GPU.
        device: the device that they share; None with Slurm.
        models: models that are not finished; there are no more jobs than that.
    """
    most = models
    if device is not None:
        most = min(MOST_JOBS, torch.get_num_threads()) if device.type == "cpu" else 1
    return max(1, min(settings.jobs or most, models))


def _finish(
    plan: ExperimentPlan,
    unfinished: Sequence[PlannedModel],
    shares: Mapping[str, Mapping[str, float]],
    jobs: int,
    device: torch.device | None,
    reporter: Reporter,
) -> float:
    """Train and measure the models that are not finished, and return the seconds that this was estimated to take."""
    settings, all_threads, slowness = plan.settings, torch.get_num_threads(), 1.0
    if device is None:
        costs = guess_costs(plan)
    else:
        threads = max(1, all_threads // jobs)
        settings = settings.model_copy(update={"threads": threads})
        costs = estimate_costs(plan, device, threads, reporter)
        slowness = float(jobs) if device.type == "cuda" else jobs / min(jobs, all_threads)
    progress = ExperimentProgress(plan.models, costs, shares, slowness, reporter)
    seconds = progress.start(jobs)
    duration = "" if device is None else f", about {counted(max(1, round(seconds / 60)), 'minute')}"
    reporter.note(
        f"to do: {len(unfinished)} of {counted(len(plan.models), 'model')}, {counted(jobs, 'job')} at a time{duration}"
    )
    plan, names = dataclasses.replace(plan, settings=settings), [model.name for model in unfinished]
    unfinished = [model for model in plan.models if model.name in names]  # with these threads
    tasks = [Task(model.name, work, (plan, model), model.reference) for model in unfinished]
    if settings.cluster is not None:
        execute(tasks, Cluster(settings, plan.store.jobs_path(plan.name), jobs), progress, reporter)
        deadline = time.monotonic() + _SECONDS_UNTIL_VISIBLE
        while stored_files(plan) is None and time.monotonic() < deadline:
            time.sleep(1.0)
    elif jobs > 1:
        execute(tasks, Pool(jobs, reporter.note), progress, reporter)
    else:
        for model in unfinished:
            work(Relay(functools.partial(progress.handle, model.name, jobs=1)), plan, model)
            progress.handle(model.name, None, jobs=1)
    return seconds


def _read_concluded(plan: ExperimentPlan) -> Result[ReproduceMetrics] | None:
    """Return the stored result if everything is finished, and result and report are made from the present files."""
    path, files = plan.folder / CONCLUDED, stored_files(plan)
    try:
        reported = min((plan.folder / name).stat().st_mtime_ns for name in (PAGE, TEXT))
        if files is None or reported < path.stat().st_mtime_ns:
            return None
        result = Result[ReproduceMetrics].model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return result if result.config.get("files_sha256") == _digest(files, plan.settings.smallest_effect) else None


def _digest(files: Sequence[Path], smallest_effect: float) -> str:
    """Return a digest of files, and of the version of nilr and the setting that conclude from them."""
    digest = hashlib.sha256(f"{__version__}/{smallest_effect}".encode())
    for file in sorted(files):
        digest.update(hashlib.sha256(file.name.encode()).digest() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _open_pack(settings: ReproduceSettings, store: Store, pack: str, reporter: Reporter) -> DataUsed:
    """Open the pack. If the preset's pack is missing, make it from the user's sources or from generated images.

    Raises:
        StoreError: the pack is missing, and there are no sources.
    """
    making = missing_pack(settings, store, pack)
    if making is not None:
        packed = prepare_data.run(making, reporter)
        write_result(experiment_folder(settings, store) / f"{packed.command}.json", packed)
    return data_used(open_pack(store.find_data(pack)), "test")


def missing_pack(settings: ReproduceSettings, store: Store, pack: str) -> PrepareDataSettings | None:
    """Return the settings that make the preset's pack; None if there is a pack.

    Raises:
        StoreError: the pack is missing, and there are no sources.
    """
    making = dict(EXPERIMENTS[settings.preset].pack)
    if settings.data is not None or store.dataset_path(pack).exists():
        return None
    if not settings.sources and "synthetic" not in making:
        flags = ("--name", pack, "--image-size", str(making["image_size"]))
        command = store.command("prepare-data", "SOURCE...", *flags)
        hint = f"make it with `{command}`, or pass the SOURCEs to `reproduce`"
        raise StoreError(f"no pack `{pack}` in `{store.home}`", hint=hint)
    place: dict[str, Any] = {"home": store.home, "name": pack, "record_paths": settings.record_paths}
    return PrepareDataSettings(**making, **place, sources=settings.sources)


class Results:
    """The results of an experiment's models.

    Attributes:
        used: the models, as a result records them.
        files: of the probes and rates, in order.
        choice_files: of the probes under other choices.
    """

    def __init__(self, plan: ExperimentPlan) -> None:
        self._plan = plan
        self._models: dict[str, list[MeasuredModel]] = {}
        self.used: list[ModelUsed] = []
        self.files: list[Path] = []
        self.choice_files: list[Path] = []

    def add(self, model: PlannedModel, reporter: Reporter) -> None:
        """Add a trained model; measure whatever is not measured yet."""
        measured = {
            name: measure(self._plan, model, measurement, reporter)
            for name, measurement in self._plan.measurements(model).items()
        }
        paths = [path for path, _ in measured.values()]
        self.files += paths[:2]
        self.choice_files += paths[2:]
        self.used.append(measured["probe"][1].models[0])
        metrics = {name: result.metrics[model.name] for name, (_, result) in measured.items()}
        episodes = {
            name: episode_values(result, model.name, self._plan.data.n_classes)
            for name, (_, result) in measured.items()
            if name != "rates"
        }
        found = MeasuredModel(model.seed, model.name, metrics.pop("probe"), metrics.pop("rates"), metrics, episodes)
        self._models.setdefault(model.run.name, []).append(found)

    def conclude(self) -> ReproduceMetrics:
        """Return the findings on the paper's signs, and all exploratory differences."""
        planned, smallest_effect = self._plan.experiment.runs, self._plan.settings.smallest_effect / 100
        runs = {run.name: run_figures(run, self._models) for run in planned}
        measured = {name: figures.to_meta_init for name, figures in runs.items()}
        algorithms = {run.name: str(run.train["algo"]) for run in planned}
        claimed = {run.name: algorithms[run.name] for run in planned if run.claimed}
        generated = is_generated(self._plan.data)
        found = signs(claimed, measured, smallest_effect=smallest_effect, generated=generated)
        of_varied = {
            run.why: unjudged_signs({run.name: algorithms[run.name]}, measured) for run in planned if run.varied
        }
        return ReproduceMetrics(
            signs=found,
            smallest_effect=smallest_effect,
            design=design([sign.measured for sign in found]),
            choices=adjusted(signs_by_choice(claimed, self._models) | of_varied),
            runs=correct_exploratory(runs, found),
            grids=rate_grids(planned, self._models, self._plan.store),
            files=[path.name for path in (*self.files, *self.choice_files)],
        )


def _write_report(
    plan: ExperimentPlan, result: Result[ReproduceMetrics], files: Sequence[Path], reporter: Reporter
) -> None:
    """Write the result, and a page and a text with all results, to the experiment's folder."""
    concluded = plan.folder / CONCLUDED
    write_result(concluded, result)
    write_result(plan.store.result_path(result.command), result)
    learned = {model.name for model in result.models if model.algo != "maml"}
    sources = [path for path in files if ".probe-" in path.name or path.name.rsplit(".", 2)[0] in learned]
    if result.metrics.grids:
        sources = []  # too many models for figures of their own
    for out in (plan.folder / PAGE, plan.folder / TEXT):
        settings = ReportSettings(home=plan.store.home, results=(concluded, *sources), out=out, force=True)
        report.run(settings, reporter)
        reporter.files.append(("report", out))
    reporter.files.append(("result", concluded))
