"""`nilr reproduce --dry-run`: check everything that can be checked without work, and describe the experiment."""

from nilr.config.base import SPLITS
from nilr.config.experiments import EXPERIMENTS
from nilr.config.meta_train import TrainSettings
from nilr.config.reproduce import ReproduceSettings
from nilr.data.pack import open_pack
from nilr.recipes import prepare_data
from nilr.recipes.common.cluster import check_cluster
from nilr.recipes.common.dry_run import describe_data, describe_episodes
from nilr.recipes.common.outcome import data_used
from nilr.recipes.common.settings import check_body, resolve
from nilr.recipes.reproduce import CONCLUDED, PAGE, missing_pack, number_of_jobs
from nilr.recipes.reproduce.plan import TRAINING, ExperimentPlan, finished_shares
from nilr.reporting import Reporter
from nilr.results.records import DataUsed
from nilr.runtime import prepare
from nilr.store import Store
from nilr.words import counted, some


def dry_run(settings: ReproduceSettings, reporter: Reporter) -> dict[str, str]:
    """Return what an experiment would do, by topic. Nothing is written.

    Raises:
        NilrError: the settings name something that is missing or does not fit.
    """
    check_body(settings.arch or TrainSettings().arch, settings)
    check_cluster(settings)
    store = Store(settings.home or EXPERIMENTS[settings.preset].home)
    device = None if settings.cluster == "slurm" else prepare(settings.device, settings.threads, settings.precision)
    pack = settings.data or EXPERIMENTS[settings.preset].data
    making = missing_pack(settings, store, pack)
    if making is None:
        data = data_used(open_pack(store.find_data(pack)), "test")
        described = describe_data(data)
    else:
        rows = prepare_data.dry_run(making, reporter)
        data = DataUsed(name=pack, digest="", image_size=making.image_size or 84)
        splits = [f"{split} {rows[split]}" for split in SPLITS if split in rows]
        described = f"{pack}, which is made first: {rows['images']}; {'; '.join(splits)}"
    plan = ExperimentPlan(settings, store, pack, data)
    plan.check_classes()
    shares = finished_shares(plan)
    trained = [name for name, found in shares.items() if found[TRAINING] == 1]
    to_do = [name for name, found in shares.items() if min(found.values()) < 1]
    resolved = [resolve(model.training)[0] for model in plan.models]
    steps = sum(one.outer_steps * (1 - shares[str(one.name)][TRAINING]) for one in resolved)
    sizes = dict.fromkeys(describe_episodes(one.n_way, one.n_shot, one.n_query) for one in resolved)
    probes = [measured for model in plan.models for measured in plan.measurements(model).values()]
    return {
        "models": f"{len(plan.models)} in {counted(len(plan.experiment.runs), 'run')}; {len(trained)} are trained",
        "to do": f"{counted(len(to_do), 'model')}: {some(to_do, 6)}" if to_do else "nothing",
        "updates": f"{steps:,.0f}",
        "episodes": "; ".join(sizes),
        "measured": counted(len(probes), "probe or rates", "probes and rates"),
        "jobs": f"{number_of_jobs(settings, device, len(to_do))} at a time",
        "data": described,
        "output": f"{plan.folder / PAGE}, {CONCLUDED}",
    }
