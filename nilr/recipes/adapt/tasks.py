"""What a model adapts to, and the images that it classifies: an episode of a pack, or the user's own images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nilr.config.evaluation import AdaptSettings
from nilr.data.labelled import LabelledImages, read_labelled
from nilr.episodes import EpisodeSampler, PackedImages
from nilr.errors import EpisodeError, UsageError
from nilr.recipes.common.episodes import EpisodeSize
from nilr.recipes.common.loading import LoadedModel
from nilr.recipes.common.packs import OpenSplit
from nilr.reporting import Reporter
from nilr.results.records import DataUsed, Overlap
from nilr.words import counted, some

MANY = 1000  # images, from which on progress is shown

Read = Callable[..., LabelledImages]


@dataclass(frozen=True)
class Queries:
    """Images to classify. They are converted to float32 when they are gathered."""

    images: PackedImages
    index: Tensor  # int64 (n,), into `images`
    labels: Tensor  # int64 (n,); -1 means unknown
    names: list[str]


@dataclass(frozen=True)
class Task:
    """What a model adapts to, and what it classifies."""

    support_x: Tensor  # (n, C, H, W); empty if the model is adapted already
    support_y: Tensor  # int64 (n,)
    classes: list[str]  # name of each class, by label
    queries: Queries
    data: DataUsed | None = None  # the pack; None for the user's own images
    overlaps: list[Overlap] = field(default_factory=list)  # with the pack that the model was trained on
    notes: list[str] = field(default_factory=list)


def draw_task(settings: AdaptSettings, size: EpisodeSize, split: OpenSplit) -> Task:
    """Draw an episode of a pack."""
    sampler = EpisodeSampler(split.images, size.n_way, size.n_shot, size.n_query, settings.seed, settings.split)
    classes, images = sampler.choose([settings.episode])
    episode, filenames = sampler.load(classes, images)[0], split.packed.filenames()
    index = images[0, :, size.n_shot :].flatten()
    return Task(
        support_x=episode.support_x,
        support_y=episode.support_y,
        classes=[split.packed.class_names[i] for i in classes[0].tolist()],
        queries=Queries(split.images, index, episode.query_y, [filenames[i] for i in index.tolist()]),
        data=split.used,
    )


def read_task(path: Path, settings: AdaptSettings, model: LoadedModel, reporter: Reporter) -> Task:
    """Read the user's own images; `path` is the support set."""
    if "episode" in settings.explicit():
        raise UsageError("--episode and --support exclude each other", hint="omit one of them")
    read = _reader(settings, model, reporter)
    support = read([path], single_images=False)
    if any(label is None for label in support.labels):
        raise EpisodeError(f"`{path}` has images outside class folders", hint="put each in the folder of its class")
    classes = sorted({label for label in support.labels if label is not None})
    labelled = zip(support.labels, support.names, strict=True)
    places = [label for label, _ in {(label, f"/{name}".rpartition(f"/{label}/")[0]) for label, name in labelled}]
    if twice := [name for name in classes if places.count(name) > 1]:
        raise EpisodeError(
            f"`{path}` has several folders `{twice[0]}`", hint="use one folder of its own name per class"
        )
    if len(classes) < 2:
        raise EpisodeError(f"`{path}` has 1 class, and a choice needs at least 2", hint="add a folder per class")
    query = _read_queries(settings.query, read, classes) if settings.query else None
    device = model.params["head.bias"].device
    images = _packed(support, device)
    return Task(
        support_x=images.gather(torch.arange(len(support.names), device=device)),
        support_y=_labels(support, classes, device),
        classes=classes,
        queries=_queries(query or LabelledImages(support.images[:0], [], []), classes, device),
        notes=[*support.warnings, *(query.warnings if query else []), *(_known(support, query) if query else [])],
    )


def read_later_task(settings: AdaptSettings, model: LoadedModel, classes: list[str], reporter: Reporter) -> Task:
    """Read images for a model that is adapted already."""
    query = _read_queries(settings.query, _reader(settings, model, reporter), classes)
    device = model.params["head.bias"].device
    queries = _queries(query, classes, device)
    none = queries.index[:0]
    return Task(queries.images.gather(none), none, classes, queries, notes=query.warnings)


def _reader(settings: AdaptSettings, model: LoadedModel, reporter: Reporter) -> Read:
    made = model.checkpoint.manifest.data
    return partial(
        read_labelled,
        size=made.image_size,
        resample="bilinear" if made.resample == "none" else made.resample,
        fit=made.fit,
        channels=made.channels,
        skip_broken=settings.skip_broken,
        on_start=lambda n: reporter.stage("read", n, unit="images") if n > MANY else None,
        on_images=reporter.advance,
    )


def _read_queries(paths: Sequence[Path], read: Read, classes: list[str]) -> LabelledImages:
    query = read(paths)
    unknown = sorted({label for label in query.labels if label is not None and label not in classes})
    if unknown and not set(classes).isdisjoint(query.labels):
        raise EpisodeError(
            f"`{paths[0]}` has folders that are not a class of the support set: {some(unknown)}",
            hint=f"the classes are {some(classes)}; move images without a label out of the folders",
        )
    if unknown:
        folders = some([f"`{name}`" for name in unknown])
        query.warnings.append(f"none of the folders {folders} is a class of the support: no accuracy")
    return query


def _packed(images: LabelledImages, device: torch.device) -> PackedImages:
    return PackedImages(torch.tensor(images.images, device=device), (len(images.names),))


def _queries(images: LabelledImages, classes: list[str], device: torch.device) -> Queries:
    index = torch.arange(len(images.names), device=device)
    return Queries(_packed(images, device), index, _labels(images, classes, device), images.names)


def _labels(images: LabelledImages, classes: list[str], device: torch.device) -> Tensor:
    """Return each image's label; -1 if its folder is not one of the classes."""
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number.get(label, -1) for label in images.labels], device=device, dtype=torch.int64)


def _known(support: LabelledImages, query: LabelledImages) -> list[str]:
    """Return a note that names the queries with the pixels of a support image."""
    pixels = {image.tobytes() for image in support.images}
    same = [name for name, image in zip(query.names, query.images, strict=True) if image.tobytes() in pixels]
    listed = ", ".join(same[:5]) + (f" and {len(same) - 5} more" if len(same) > 5 else "")
    return [f"{counted(len(same), 'query image')} with the pixels of a support image: {listed}"] if same else []
