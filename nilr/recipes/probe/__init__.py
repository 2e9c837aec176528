"""`nilr probe`: evaluate features by labelled neighbours, before and after adaptation, on the same and another task."""

from collections.abc import Sequence

import torch

from nilr import distributed
from nilr.config.evaluation import ProbeSettings
from nilr.errors import DataError
from nilr.recipes.common.episodes import episode_size
from nilr.recipes.common.evaluation_pack import open_evaluation_split
from nilr.recipes.common.loading import LoadedModel, load_models
from nilr.recipes.common.memory import with_memory_hint
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.overlaps import find_overlaps
from nilr.recipes.common.packs import OpenSplit
from nilr.recipes.probe.evaluation import Inputs, evaluate
from nilr.recipes.probe.plan import check_settings, check_size, plan_all
from nilr.recipes.probe.universality import open_all_classes
from nilr.reporting import Reporter
from nilr.results.probe import ProbeMetrics
from nilr.results.result import Result
from nilr.runtime import prepare
from nilr.store import Store


def open_inputs(settings: ProbeSettings, store: Store) -> Inputs[LoadedModel, OpenSplit]:
    """Check the settings, and open models and packs.

    Raises:
        NilrError: the settings contradict, or name something that is missing or does not fit.
    """
    check_settings(settings)
    device = prepare(settings.device, settings.threads, settings.precision)
    models = load_models(store, settings.models, settings, device=device)
    loaded = list(models.values())
    size = episode_size(settings, loaded)
    check_size(settings, size.n_query)
    plans = plan_all(settings, models, size.n_way)
    split, judged = _open_splits(settings, store, loaded, device)
    return Inputs(models, size, plans, split, judged, open_all_classes(settings, store, loaded, device))


@with_memory_hint("a smaller --n-query or --n-shot, or --device cpu")
def run(settings: ProbeSettings, reporter: Reporter) -> Result[ProbeMetrics]:
    """Evaluate one or several models on the same episodes."""
    outcome = Outcome(settings)
    store = Store(settings.home)
    inputs = open_inputs(settings, store)
    evaluated = [inputs.judged, *([inputs.wide] if inputs.wide else [])]
    overlaps, notes = find_overlaps(store, inputs.models, evaluated, settings.data)
    return evaluate(settings, inputs, outcome, reporter, overlaps=overlaps, overlap_notes=notes)


def _open_splits(
    settings: ProbeSettings, store: Store, models: Sequence[LoadedModel], device: torch.device
) -> tuple[OpenSplit, OpenSplit]:
    """Return the split of episode A and that of episode B; NilrError if processes differ in what they measure."""
    splits = _open_both(settings, store, models, device)
    distributed.check_same(
        settings.model_dump(mode="json"),
        models=[model.used.digest for model in models],
        pack=[split.used.digest for split in splits],
    )
    return splits


def _open_both(
    settings: ProbeSettings, store: Store, models: Sequence[LoadedModel], device: torch.device
) -> tuple[OpenSplit, OpenSplit]:
    """Return the split of episode A and that of episode B: the same one, or one of --data-b."""
    split = open_evaluation_split(store, settings.data, settings.split, models, device)
    if settings.data_b is None:
        return split, split
    judged = open_evaluation_split(store, settings.data_b, settings.split, models, device)
    if judged.used.digest == split.used.digest:
        raise DataError(
            f"--data-b `{settings.data_b}` has the same images as `{split.used.name}`", hint="omit --data-b"
        )
    return split, judged
