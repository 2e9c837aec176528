"""Reproduce: the whole experiment over seeds, to a verdict on the paper's four signs; the same command goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nilr.claims import MeasuredModel, describe_signs, run_figures, signs, signs_by_choice
from nilr.config.experiments import EXPERIMENTS
from nilr.config.judging import ProbeSettings
from nilr.config.keeping import ReportSettings
from nilr.config.packing import PrepareDataSettings
from nilr.config.reproducing import ReproduceSettings
from nilr.data.pack import open_pack
from nilr.errors import Interrupted, StoreError
from nilr.recipes import prepare_data, report
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.settings import resolve
from nilr.recipes.reproduce.estimate import seconds_left
from nilr.recipes.reproduce.plan import Plan, Trained, model_runs
from nilr.recipes.reproduce.pool import number_of_jobs, work_ahead
from nilr.recipes.reproduce.steps import Left, Steps
from nilr.reporting import Reporter
from nilr.results.records import DataUsed, ModelUsed
from nilr.results.reproducing import ReproduceMetrics, RunFigures
from nilr.results.result import Result, write_result
from nilr.runtime import environment, prepare
from nilr.store import Store, newest_manifest


def run(settings: ReproduceSettings, reporter: Reporter) -> Result[ReproduceMetrics]:
    """Train, probe, look at the rates, conclude and report; whatever is done already is left as it is.

    Raises:
        NilrError: the pack is not there, or anything that one of the parts raises.
        Interrupted: a signal; what is done stays, and the same command goes on.
    """
    store = Store(settings.home or EXPERIMENTS[settings.preset].home)
    plan = Plan(settings, store, settings.data or EXPERIMENTS[settings.preset].data)
    try:
        with store.lock(plan.name, kind="experiment"):
            return Reproduction(plan, reporter).run()
    except Interrupted as interrupted:
        raise Interrupted(interrupted.signum, hint="what is done is kept; the same command goes on") from None


class Reproduction:
    """One experiment on its way.

    Args:
        plan: what it is.
        reporter: told of the progress.
    """

    def __init__(self, plan: Plan, reporter: Reporter) -> None:
        self.plan, self.reporter = plan, reporter
        self.data: DataUsed
        self.steps: Steps
        self.used: list[ModelUsed] = []
        self.files: list[Path] = []
        self.asked_again: list[Path] = []

    def run(self) -> Result[ReproduceMetrics]:
        """Do all that is left, in order."""
        plan = self.plan
        outcome = Outcome(plan.settings)
        device = prepare(plan.settings.device, plan.settings.threads, plan.settings.precision)
        self.data = self._pack()
        self.steps = Steps(plan, self.data, self.reporter)
        left = self.steps.left()
        jobs = number_of_jobs(plan.settings.jobs, device, len(left.ask))
        share = max(1, torch.get_num_threads() // jobs)
        estimate = self._estimate(left, device, jobs, share)
        if jobs > 1:
            shared = dataclasses.replace(plan, settings=plan.settings.model_copy(update={"threads": share}))
            work_ahead(shared, self.data, [t for t in plan.trainings if t.model in left.ask], jobs, self.reporter)
        runs = model_runs(plan.trainings)
        seen: dict[str, list[MeasuredModel]] = {}
        for name, trainings in runs.items():
            for training in trainings:
                self.steps.train(training)
            seen[name] = [self._look(training) for training in trainings]
        metrics = self._conclude({name: run_figures(runs[name][0].run, seen) for name in runs}, seen)
        result = outcome.result(
            metrics,
            config={
                **plan.settings.model_dump(mode="json", exclude={"home", "sources"}),
                "seeds": [training.seed for training in plan.trainings if training.run == plan.experiment.runs[0]],
                "jobs": jobs,
                "name": plan.name,
                "data": self.data.name,
                "estimated_seconds": estimate,
            },
            models=self.used,
            data=self.data,
            notes=describe_signs(metrics.signs),
            environment=environment(device, plan.settings.engine),
        )
        self._report(result)
        return result

    def _conclude(self, runs: dict[str, RunFigures], seen: Mapping[str, Sequence[MeasuredModel]]) -> ReproduceMetrics:
        """Ask the paper's signs of the preset's runs, and again under every other choice."""
        measured = {name: figures.to_meta_init for name, figures in runs.items()}
        known = self.plan.experiment.runs
        claimed = {run.name: str(run.train["algo"]) for run in known if run.claimed}
        varied = {run.why: signs({run.name: str(run.train["algo"])}, measured) for run in known if run.varied}
        choices = signs_by_choice(claimed, seen) | varied
        files = [path.name for path in (*self.files, *self.asked_again)]
        return ReproduceMetrics(signs=signs(claimed, measured), choices=choices, runs=runs, files=files)

    def _pack(self) -> DataUsed:
        """Return the pack; make it where it is not there and can be made.

        Raises:
            StoreError: it is not there, and nothing was given to make it of.
        """
        plan, making = self.plan, dict(self.plan.experiment.pack)
        if plan.settings.data is None and not plan.store.dataset_path(plan.pack).exists():
            sources = plan.settings.sources
            if not sources and "synthetic" not in making:
                flags = f"--name {plan.pack} --image-size {making['image_size']}"
                raise StoreError(
                    f"no dataset `{plan.pack}` in `{plan.store.home}`",
                    hint=f"make it with `nilr prepare-data SOURCE... {flags}`, or give `nilr reproduce` the SOURCEs",
                )
            home, paths = plan.store.home, plan.settings.record_paths
            packing = PrepareDataSettings(**making, home=home, sources=sources, name=plan.pack, record_paths=paths)
            self._keep(prepare_data.run(packing, self.reporter))
        info = open_pack(plan.store.find_data(plan.pack)).info
        return DataUsed(name=info.name, digest=info.digest, image_size=info.image_size, split="test")

    def _estimate(self, left: Left, device: torch.device, jobs: int, threads: int) -> float:
        """Say what is left and return about how long it takes, so many jobs at a time on so many threads each."""
        plan = self.plan
        if not left.ask:
            self.reporter.note("all trainings and probes are done")
            return 0.0
        updates = [(t, resolve(t.settings)[0].outer_steps - self._updates_done(t)) for t in left.train]
        asked = [(training, asked) for training in plan.trainings for asked in left.ask.get(training.model, ())]
        probes = [(training, probe) for training, probe in asked if isinstance(probe, ProbeSettings)]
        all_threads = torch.get_num_threads()
        torch.set_num_threads(threads)
        seconds = seconds_left(plan, self.data, device, updates, probes)
        torch.set_num_threads(all_threads)
        seconds /= 1 if device.type == "cuda" else min(jobs, all_threads)
        self.reporter.note(
            f"to do: {len(left.train)} of {len(plan.trainings)} trainings ({sum(n for _, n in updates):,} updates), "
            f"{len(probes)} probes: about {max(1, round(seconds / 60))} minutes on this machine as it is now"
        )
        return seconds

    def _updates_done(self, training: Trained) -> int:
        manifest = newest_manifest(self.plan.store.model_dir(training.model))
        return 0 if manifest is None else min(manifest.outer_step, resolve(training.settings)[0].outer_steps)

    def _look(self, training: Trained) -> MeasuredModel:
        """Return what a model answered; it is asked what it was not asked yet."""
        answers = {name: self.steps.ask(training, asked) for name, asked in self.steps.questions(training).items()}
        probed, looked, *again = answers.values()
        self.files += [probed.path, looked.path]
        self.asked_again += [answer.path for answer in again]
        self.used.append(probed.result.models[0])
        found = {name: answer.result.metrics[training.model] for name, answer in answers.items()}
        return MeasuredModel(training.seed, training.model, found.pop("probe"), found.pop("rates"), found)

    def _keep(self, result: Result[Any], name: str | None = None) -> Result[Any]:
        write_result(self.plan.folder / (name or f"{result.command}.json"), result)
        return result

    def _report(self, result: Result[ReproduceMetrics]) -> None:
        """Write the result, and the page and the text of all results, in the experiment's folder."""
        folder = self.plan.folder
        self._keep(result, "reproduce.json")
        write_result(self.plan.store.result_path(result.command), result)
        learned = {m.name for m in result.models if m.algo != "maml"}
        sources = [path for path in self.files if ".probe-" in path.name or path.name.rsplit(".", 2)[0] in learned]
        for out in (folder / "report.html", folder / "report.md"):
            made = ReportSettings(
                home=self.plan.store.home, results=(folder / "reproduce.json", *sources), out=out, force=True
            )
            report.run(made, self.reporter)
            self.reporter.note(f"report: {out}")
