"""All classes of a split, which `--universality` evaluates features on."""

from collections.abc import Sequence

import torch

from nilr.config.evaluation import ProbeSettings
from nilr.episodes import EpisodeSampler
from nilr.errors import EpisodeError
from nilr.probes.tasks import TaskPairs
from nilr.recipes.common.evaluation_pack import open_evaluation_split
from nilr.recipes.common.loading import LoadedModel
from nilr.recipes.common.packs import OpenSplit, Split
from nilr.store import Store
from nilr.words import counted


def open_all_classes(
    settings: ProbeSettings, store: Store, models: Sequence[LoadedModel], device: torch.device
) -> OpenSplit | None:
    """Open the split of --universality, in the pack of the evaluated episodes; None if it is not requested."""
    if settings.universality is None:
        return None
    return open_evaluation_split(store, settings.data_b or settings.data, settings.universality, models, device)


def draw_all_classes(settings: ProbeSettings, pairs: TaskPairs, wide: Split | None) -> TaskPairs | None:
    """Return what draws many images of every class of a split to evaluate, and freely the tasks A of `pairs`.

    Raises:
        EpisodeError: a class has too few images.
    """
    if wide is None:
        return None
    n, sizes = settings.universality_images, wide.images.class_sizes
    if min(sizes) < 2 * n:
        raise EpisodeError(
            f"--universality needs {2 * n} images per class, but a class of `{settings.universality}` has {min(sizes)}",
            hint=f"set --universality-images {min(sizes) // 2}" if min(sizes) >= 10 else "use another split or pack",
        )
    judged = EpisodeSampler(wide.images, len(sizes), n, n, settings.seed, f"{settings.universality}/all-classes")
    return TaskPairs(judged, pairs.adapted, "any")


def universality_notes(settings: ProbeSettings, split: Split, wide: Split | None) -> list[str]:
    """Describe what linear classifiers were evaluated on, and whether the tasks' classes are among it."""
    if wide is None:
        return []
    classes, images = len(wide.images.class_sizes), settings.universality_images
    tasks = f"{counted(settings.universality_tasks, 'task')} of {_name(settings.split, split)}"
    same = wide.images is split.images or (wide.used is not None and wide.used == split.used)
    inside = " The classes of these tasks are among them." if same else ""
    return [
        f"Linear classifiers distinguish all {classes} classes of {_name(settings.universality, wide)}, fitted to "
        f"{images} images per class and evaluated on {images} others, after adaptation to {tasks}.{inside}"
    ]


def _name(name: str | None, split: Split) -> str:
    return f"the {name} split" + (f" of `{split.used.name}`" if split.used else "")
