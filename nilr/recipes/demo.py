"""Demo: pack generated images, meta-train maml and metasgd, probe both, and report, in a separate store."""

from pathlib import Path
from typing import Any

from nilr.config.base import SYNTHETIC
from nilr.config.evaluation import ProbeSettings
from nilr.config.meta_train import TrainSettings
from nilr.config.packs import PrepareDataSettings
from nilr.config.reproduce import DemoSettings
from nilr.config.results import ReportSettings
from nilr.recipes import meta_train, prepare_data, probe, report
from nilr.reporting import Reporter
from nilr.results.probe import ProbeMetrics
from nilr.results.result import Result, write_result
from nilr.store import Store

HOME, PAGE = Path("nilr-demo"), "report.html"
IMAGE_SIZE, IMAGES_PER_CLASS = 32, 60

# At most a minute each on two cores; real trainings take hours.
_COMMON: dict[str, Any] = {"meta_batch_size": 4, "eval_every": 0, "save_every": 100, "log_every": 20}
RECIPES: dict[str, dict[str, Any]] = {
    "maml": {**_COMMON, "outer_steps": 200},
    "metasgd": {**_COMMON, "outer_steps": 300},
}
N_EPISODES = 100


def run(settings: DemoSettings, reporter: Reporter) -> Result[ProbeMetrics]:
    """Pack generated images unless the store has them, train two models, and probe them and an untrained one.

    Every result is stored, and its path reported. The page `report.html` shows the probe.

    Returns:
        The result of the probe.
    """
    home = settings.home if settings.home is not None else HOME
    store = Store(home)
    common = {**settings.model_dump(), "home": home}

    def store_result(result: Result[Any]) -> Path:
        path = store.result_path(result.command, result.question)
        write_result(path, result)
        reporter.note(f"{result.command}: {path}")
        return path

    if not store.dataset_path(SYNTHETIC).exists():
        pack = PrepareDataSettings(
            home=home,
            synthetic=True,
            image_size=IMAGE_SIZE,
            limit_per_class=IMAGES_PER_CLASS,
            seed=settings.seed,
            record_paths=settings.record_paths,
        )
        store_result(prepare_data.run(pack, reporter))
    names = []
    for algo, recipe in RECIPES.items():
        trained = meta_train.run(TrainSettings(**common, data=SYNTHETIC, algo=algo, **recipe), reporter)
        store_result(trained)
        names.append(str(trained.config["name"]))
    probed = probe.run(ProbeSettings(**common, models=tuple(names), n_episodes=N_EPISODES, controls=True), reporter)
    page = Path(home) / PAGE
    report.run(ReportSettings(home=home, results=(store_result(probed),), out=page, force=True), reporter)
    reporter.files.append(("report", page))
    return probed


def next_command(settings: DemoSettings, result: Result[ProbeMetrics]) -> str:
    """Return the command that shows the learned rates."""
    learned = next(model.name for model in result.models if model.algo == "metasgd")
    return settings.model_copy(update={"home": settings.home or HOME}).command("rates", learned)
