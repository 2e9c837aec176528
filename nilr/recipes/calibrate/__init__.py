"""`nilr calibrate`: evaluate models as published accuracies were, and compare them."""

import math
from collections.abc import Iterable
from typing import Any

from nilr.config.base import BatchStats
from nilr.config.evaluation import CalibrateSettings, ProbeSettings
from nilr.data.pack import open_pack
from nilr.errors import UsageError
from nilr.recipes import probe
from nilr.recipes.calibrate import anchors
from nilr.recipes.calibrate.fitting import choose_judging, find_differences, is_same_experiment
from nilr.recipes.common.evaluation_pack import training_pack_notes
from nilr.recipes.common.loading import LoadedModel, load_models
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.overlaps import describe_overlap
from nilr.recipes.probe.controls import UNTRAINED
from nilr.reporting import Reporter
from nilr.results.calibrate import Anchor, CalibrateMetrics, Judged, Judging, ModelCalibration, NotComparable
from nilr.results.probe import ProbeMetrics
from nilr.results.records import Mean
from nilr.results.result import Result
from nilr.runtime import environment, prepare
from nilr.store import Store
from nilr.words import counted

# Half the width of the band of an anchor that was published without an interval: 600 episodes of 75 queries give 0.8
# points, and two seeds of one recipe differ by about as much.
UNREPORTED = 0.01

_RULE = "attention"
_Fit = tuple[Anchor, Judging]
_Way = tuple[int, BatchStats, int | None]  # queries per class, batch statistics, inner steps or None for features alone


def run(settings: CalibrateSettings, reporter: Reporter) -> Result[CalibrateMetrics]:
    """Compare one or several models with the anchors that fit, or list all anchors."""
    outcome = Outcome(settings)
    config = settings.model_dump(mode="json", exclude={"home", "models"})
    device = prepare(settings.device, settings.threads, settings.precision)
    if settings.list:
        if settings.models:
            raise UsageError("--list shows all anchors, whatever the model", hint="omit --list or the models")
        listed = CalibrateMetrics(anchors=list(anchors.ANCHORS))
        return outcome.result(listed, config=config, environment=environment(device, settings.engine))
    store = Store(settings.home)
    models = load_models(store, settings.models, settings, device=device)
    pack = None if settings.data is None else open_pack(store.find_data(settings.data)).info.name
    calibrations: dict[str, ModelCalibration] = {}
    probes: list[Result[ProbeMetrics]] = []
    for name, model in models.items():
        calibrations[name], of_model = _calibrate(settings, model, pack, reporter)
        probes += of_model
    used = probes[0].data if probes else None
    overlaps = {overlap.b.digest: overlap for found in probes for overlap in found.overlaps}
    loaded = list(models.values())
    return outcome.result(
        CalibrateMetrics(models=calibrations),
        config=config | {"data": used.name if used else pack},
        models=[model.used for model in loaded],
        data=used,
        overlaps=list(overlaps.values()),
        notes=[
            *(training_pack_notes(models, used) if used else ()),
            *map(describe_overlap, overlaps.values()),
            *(_note(name, calibrations[name], model) for name, model in models.items()),
        ],
        environment=environment(device, loaded[0].engine.name),
    )


def compare(accuracy: Mean, anchor: Anchor, judging: Judging) -> Judged:
    """Return a model's accuracy beside an anchor; see `Judged` for the band."""
    difference = accuracy.mean - anchor.accuracy
    band = math.hypot(UNREPORTED if anchor.ci95 is None else anchor.ci95, accuracy.ci95 or 0.0)
    return Judged(
        anchor=anchor,
        judging=judging,
        accuracy=accuracy,
        difference=difference,
        band=band,
        verdict="within" if abs(difference) <= band else "above" if difference > 0 else "below",
    )


def _calibrate(
    settings: CalibrateSettings, model: LoadedModel, pack: str | None, reporter: Reporter
) -> tuple[ModelCalibration, list[Result[ProbeMetrics]]]:
    """Return a model beside its anchors, and its probes; none if no anchor fits."""
    same = [anchor for anchor in anchors.ANCHORS if is_same_experiment(anchor, model, pack)]
    differences = [(anchor, find_differences(anchor, model)) for anchor in same]
    fitting = [(anchor, choose_judging(anchor, model)) for anchor, found in differences if not found]
    judged, probes = [], []
    for way, pairs in _group(fitting).items():
        result = probe.run(_probe_settings(settings, model, pairs, way), reporter)
        probes.append(result)
        judged += [compare(_read(result.metrics, anchor), anchor, judging) for anchor, judging in pairs]
    others = [NotComparable(anchor=anchor, reasons=found) for anchor, found in differences if found]
    return ModelCalibration(judged=judged, not_comparable=others), probes


def _group(fitting: Iterable[_Fit]) -> dict[_Way, list[_Fit]]:
    """Group anchors by the probe that serves them; features join a head with the same queries and statistics."""
    groups: dict[_Way, list[_Fit]] = {}
    for anchor, judging in sorted(fitting, key=lambda pair: pair[1].measured == "features"):
        way = judging.n_query, judging.batch_stats, judging.inner_steps
        if judging.measured == "features":
            way = next((known for known in groups if known[:2] == way[:2]), way)
        groups.setdefault(way, []).append((anchor, judging))
    return groups


def _probe_settings(settings: CalibrateSettings, model: LoadedModel, pairs: Iterable[_Fit], way: _Way) -> ProbeSettings:
    shared = CalibrateSettings.model_fields.keys() & ProbeSettings.model_fields.keys() - {"models"}
    values: dict[str, Any] = settings.model_dump(include=shared)
    n_query, batch_stats, inner_steps = way
    head = {"own_head": True, "protocol": "same-task", "inner_steps": inner_steps}
    return ProbeSettings(
        **values,
        **(head if inner_steps is not None else {"protocol": "meta-init"}),
        models=(str(model.ref.file.absolute()),),
        n_query=n_query,
        batch_stats=batch_stats,
        neighbours=(_RULE,),
        controls=any(anchor.algorithm == anchors.RANDOM_FEATURES for anchor, _ in pairs),
    )


def _read(metrics: ProbeMetrics, anchor: Anchor) -> Mean:
    """Return what an anchor measures, from the probe of one model."""
    if anchor.algorithm == anchors.RANDOM_FEATURES:
        untrained = metrics[UNTRAINED]
        halves = untrained.meta_init.accuracy.ci95, untrained.over_bodies[_RULE].ci95
        return untrained.meta_init.accuracy.model_copy(update={"ci95": math.hypot(*(half or 0.0 for half in halves))})
    found = next(iter(metrics.values()))
    return found.meta_init.accuracy if anchor.measured == "features" else found.own_head["learned"].same_task.accuracy


def _note(name: str, calibration: ModelCalibration, model: LoadedModel) -> str:
    """Describe what a model is compared with."""
    n_judged, others = len(calibration.judged), len(calibration.not_comparable)
    verdicts = [found.verdict for found in calibration.judged if found.anchor.algorithm != anchors.RANDOM_FEATURES]
    if verdicts:
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
        return f"{name}: {counts}; {counted(others, 'figure')} not comparable."
    if n_judged or others:
        return f"{name} is comparable with no published figure of {model.algorithm.name}."
    manifest = model.checkpoint.manifest
    task = f"{model.settings.get('n_way')}-way {model.settings.get('n_shot')}-shot"
    return (
        f"{name}: no published figure is known for {model.algorithm.name} with {manifest.architecture.name} on "
        f"`{manifest.data.name}`, {task}."
    )
