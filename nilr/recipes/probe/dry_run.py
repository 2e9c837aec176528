"""`nilr probe --dry-run`: check everything that can be checked without work, and describe the probe."""

from nilr.config.evaluation import ProbeSettings
from nilr.recipes.common.dry_run import describe_data, describe_episodes
from nilr.recipes.common.settings import describe_changes
from nilr.recipes.probe import open_inputs
from nilr.recipes.probe.loop import task_pairs
from nilr.recipes.probe.universality import draw_all_classes
from nilr.reporting import Reporter
from nilr.store import Store


def dry_run(settings: ProbeSettings, reporter: Reporter) -> dict[str, str]:
    """Return what a probe would do, by topic. Nothing is written.

    Raises:
        NilrError: the settings name something that is missing or does not fit.
    """
    found = open_inputs(settings, Store(settings.home))
    size, used = found.size, found.judged.used
    pairs = task_pairs(settings, size, found.split.images, found.judged.images)
    draw_all_classes(settings, pairs, found.wide)
    chosen = settings.model_dump(mode="json", include=settings.model_fields_set - {"home", "models"})
    default = ProbeSettings().model_dump(mode="json")
    return {
        "models": ", ".join(found.plans),
        "data": describe_data(used),
        "episodes": f"{settings.n_episodes:,}, {describe_episodes(size.n_way, size.n_shot, size.n_query)}",
        "protocols": ", ".join(next(iter(found.plans.values())).protocols),
        "settings": describe_changes(chosen, default),
    }
