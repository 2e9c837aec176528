"""The whole path on generated images: pack, meta-train maml and metasgd, probe both, in a home of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nilr.config import SYNTHETIC, DemoSettings, PrepareDataSettings, ProbeSettings, TrainSettings
from nilr.recipes import meta_train, prepare_data, probe
from nilr.reporting import Reporter
from nilr.results.probing import ProbeMetrics
from nilr.results.result import Result, write_result
from nilr.store import Store

HOME = Path("nilr-demo")
IMAGE_SIZE, IMAGES_PER_CLASS = 32, 60

# Two recipes of a minute or less on two cores; the real ones take hours.
_COMMON: dict[str, Any] = {"meta_batch_size": 4, "eval_every": 0, "save_every": 100, "log_every": 20}
RECIPES: dict[str, dict[str, Any]] = {
    "maml": {**_COMMON, "outer_steps": 200},
    "metasgd": {**_COMMON, "outer_steps": 300},
}
N_EPISODES = 100


def run(settings: DemoSettings, reporter: Reporter) -> Result[ProbeMetrics]:
    """Pack generated images (unless they are there), train two models, probe them beside an untrained one.

    Returns:
        The probe's result; every result is stored, and the reporter is told where.

    Raises:
        NilrError: the home cannot be written, or the device is not there.
    """
    home = settings.home if settings.home is not None else HOME
    store = Store(home)
    place = {"home": home, "seed": settings.seed, "device": settings.device, "threads": settings.threads}
    place["record_paths"] = settings.record_paths

    def keep(result: Result[Any]) -> None:
        path = store.result_path(result.command)
        write_result(path, result)
        reporter.note(f"{result.command}: {path}")

    if not store.dataset_path(SYNTHETIC).exists():
        pack = PrepareDataSettings(
            home=home,
            synthetic=True,
            image_size=IMAGE_SIZE,
            limit_per_class=IMAGES_PER_CLASS,
            seed=settings.seed,
            record_paths=settings.record_paths,
        )
        keep(prepare_data.run(pack, reporter))
    names = []
    for algo, recipe in RECIPES.items():
        trained = meta_train.run(TrainSettings(**place, data=SYNTHETIC, algo=algo, **recipe), reporter)
        keep(trained)
        names.append(str(trained.config["name"]))
    judged = probe.run(ProbeSettings(**place, models=tuple(names), n_episodes=N_EPISODES, controls=True), reporter)
    keep(judged)
    return judged
