"""`nilr meta-train --dry-run`: check everything that can be checked without work, and describe the training."""

import contextlib

from nilr.config.meta_train import TrainSettings
from nilr.recipes.common.cluster import check_cluster
from nilr.recipes.common.dry_run import describe_data, describe_episodes
from nilr.recipes.common.settings import describe_changes, recorded_settings
from nilr.recipes.meta_train.start import Starter, check_loggers, find_model_to_resume, load_stored, settings_by_seed
from nilr.reporting import Reporter
from nilr.store import Store


def dry_run(settings: TrainSettings, reporter: Reporter) -> dict[str, str]:
    """Return what a training would do, by topic. Nothing is written.

    Raises:
        NilrError: the settings name something that is missing or does not fit.
    """
    check_cluster(settings)
    check_loggers(settings)
    store, models, prepared = Store(settings.home), [], []
    with contextlib.ExitStack() as resources:
        starter = Starter(store, resources, reporter, n_models=len(settings.each_seed))
        for one, default_name in settings_by_seed(settings):
            directory = find_model_to_resume(one, store)
            stored = None if directory is None else load_stored(directory)[1]
            prepared.append(starter.prepare(one, directory, stored))
            if directory is not None and stored is not None:
                models.append(f"{directory.name} (resumes after update {stored.progress.outer_step:,})")
            else:
                models.append(one.name or store.free_model_name(default_name))
    first = prepared[0]
    one, data = first.settings, first.data
    final, default = recorded_settings(first.settings), recorded_settings(TrainSettings())
    return {
        "models": ", ".join(models),
        "data": describe_data(data),
        "updates": f"{one.outer_steps:,} of {one.meta_batch_size} episodes",
        "episodes": describe_episodes(one.n_way, one.n_shot, one.n_query),
        "engine": first.outer.engine.name,
        "settings": describe_changes(final, default),
    }
