"""Settings of the commands that run a whole experiment: `nilr reproduce` and `nilr demo`."""

from pathlib import Path
from typing import Literal

from nilr.config.base import (
    DEVICE,
    SEED,
    THREADS,
    ChunkSettings,
    ClusterSettings,
    MeasuringSettings,
    Seeds,
    Widths,
    setting,
)

ReproducePreset = Literal["paper", "cpu", "controls", "grid", "demo"]


class ReproduceSettings(ChunkSettings, ClusterSettings):
    """`nilr reproduce`: run a whole experiment over several seeds."""

    sources: tuple[Path, ...] = setting((), "Images to pack first, if the pack does not exist.")
    preset: ReproducePreset = setting(
        "cpu",
        "paper: 84 px, 60,000 updates, for a GPU; cpu: 32 px, about two hours on two cores; controls: control "
        "trainings for cpu; grid: MAML trained at and adapted with several rates, 32 px; demo: generated images, a few "
        "minutes.",
    )
    seeds: Seeds | None = setting(
        None,
        "Number of seeds, starting at --seed, or a list such as 0,1,7; a finding needs at least three.",
        shown="5 for paper and controls, else 3",
        text=True,
    )
    name: str | None = setting(
        None,
        "Name of the experiment; its models are named NAME-RUN-sSEED.",
        shown="the preset's; controls shares the models of cpu",
        env=False,
    )
    data: str | None = setting(None, "Pack to train and evaluate on: a name or a path.", shown="the preset's")
    outer_steps: int | None = setting(None, "Number of updates of every training.", shown="the preset's", ge=1)
    arch: str | None = setting(
        None,
        "Body of all networks, as in meta-train: conv4, conv4-leaky, conv6, resnet12 or an import path.",
        shown="the preset's",
    )
    filters: int | None = setting(
        None, "conv4 and conv6: number of channels of each convolution.", shown="the preset's", ge=1, le=4096
    )
    widths: Widths | None = setting(
        None, "resnet12: number of channels of each of the four blocks.", shown="the preset's", text=True
    )
    n_episodes: int | None = setting(None, "Number of episodes of every probe.", shown="the preset's", ge=2)
    smallest_effect: float = setting(
        0.3,
        "Smallest effect of interest, in points; a sign whose 90 % interval lies within it is equivalent to none.",
        gt=0,
        le=100,
    )
    jobs: int | None = setting(
        None,
        "Number of trainings and probes to run at the same time; each is a process with its share of the threads.",
        shown="one per CPU thread, at most 8; on a GPU 1; with --cluster slurm all",
        ge=1,
        le=100,
    )
    home: Path | None = setting(
        None,
        "Directory of the store: packs, models, results.",
        shown="NILR_HOME, else the user data directory; for demo ./nilr-reproduce",
        env=False,
    )


class DemoSettings(MeasuringSettings):
    """`nilr demo`: run all steps on generated images."""

    home: Path | None = setting(None, "Directory of the demo's store.", shown="./nilr-demo", env=False)
    seed: int = SEED
    device: str = DEVICE
    threads: int | None = THREADS
