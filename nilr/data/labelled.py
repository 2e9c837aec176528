"""Read a user's own images: a folder or archive with one folder per class, or without folders, or single files."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from nilr.config.base import Fit, Resample
from nilr.data.digests import Images
from nilr.data.sources.containers import list_sources
from nilr.data.sources.decoding import decode_images
from nilr.data.sources.members import Member, Payload, by_kind, fetch_all
from nilr.data.sources.tree import read_class_names, read_tree
from nilr.errors import DataError
from nilr.words import counted

MAX_IMAGES: Final = 10_000
_AT_ONCE: Final = 64  # files in memory


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes."""

    images: Images  # uint8 (n, S, S, C), in the order of `names`
    names: list[str]  # each image's path below its source, or with the name of the source if some would be equal
    labels: list[str | None]  # the name of each image's class folder; None for an image outside folders
    warnings: list[str] = field(default_factory=list)


def read_labelled(
    paths: Sequence[Path],
    size: int,
    *,
    resample: Resample = "bilinear",
    fit: Fit = "stretch",
    channels: int = 3,
    skip_broken: bool = False,
    single_images: bool = True,
    on_start: Callable[[int], object] = lambda _: None,
    on_images: Callable[[int], object] = lambda _: None,
) -> LabelledImages:
    """Read all images of folders and archives, and single images, in path order; see `decode_images`.

    `on_start` is called with the number of images, `on_images` with the number that was read since its last call.

    Raises:
        DataError: a source or, without `skip_broken`, an image cannot be read; there are too many images; it is
            unclear which folders are classes.
    """
    listing = list_sources(paths, skip_broken=skip_broken, single_images=single_images)
    members = sorted(_distinct(listing.images), key=lambda member: member.path)
    where = f"`{paths[0]}`" + (f" and {counted(len(paths) - 1, 'other source')}" if len(paths) > 1 else "")
    if len(members) > MAX_IMAGES:
        raise DataError(
            f"{where} contains {len(members)} images, more than {MAX_IMAGES}",
            hint="make a pack of this size with `prepare-data`",
        )
    if not single_images:
        _check_one_split(members, where)
    classes = read_class_names(members)
    on_start(len(members))
    decode = partial(decode_images, size=size, resample=resample, fit=fit, channels=channels)
    images, broken = _read(members, decode, np.empty((len(members), size, size, channels), np.uint8), on_images)
    good = [index for index, member in enumerate(members) if member.path not in broken]
    if not good or (broken and not skip_broken):
        hint = "replace or remove these images" + ("; or pass --skip-broken to leave them out" if good else "")
        raise DataError(f"not all images in {where} can be read: {by_kind(broken)}", hint=hint)
    warnings = list(listing.warnings)
    if broken := listing.unread | broken:
        warnings.append(f"skipped {counted(len(broken), 'unreadable file')}: {by_kind(broken)}")
    full = [members[index].path for index in good]
    names = [path.partition("/")[2] for path in full]
    labels = [classes.get(members[index]) for index in good]
    return LabelledImages(images[good], full if len(set(names)) < len(names) else names, labels, warnings)


def _check_one_split(members: Sequence[Member], where: str) -> None:
    splits = {folder.split for folder in read_tree(members).classes if folder.split}
    if len(splits) > 1:
        raise DataError(
            f"{where} has the folders of several splits: {', '.join(sorted(splits))}",
            hint="give the folder of one split, or make a pack with `prepare-data`",
        )


def _distinct(members: Sequence[Member]) -> list[Member]:
    """Return each file once, with the path that has most folders, and number sources whose images have equal paths."""
    files: dict[object, Member] = {}
    for member in members:
        where = member.where
        # A link of another name in the same folder is another image.
        real = Path(os.path.realpath(where.parent), where.name) if isinstance(where, Path) else object()
        if real not in files or files[real].path.count("/") < member.path.count("/"):
            files[real] = member
    seen: Counter[str] = Counter()
    distinct = []
    for member in files.values():
        seen[member.path] += 1
        source, _, rest = member.path.partition("/")
        number = seen[member.path]
        distinct.append(member if number == 1 else member._replace(path=f"{source} ({number})/{rest}"))
    return distinct


def _read(
    members: Sequence[Member],
    decode: Callable[[Sequence[Payload]], tuple[Images, list[str | None]]],
    images: Images,
    on_images: Callable[[int], object],
) -> tuple[Images, dict[str, str]]:
    """Decode the members into `images`, a few at a time; return the reason for each broken one, by path."""
    place = {member: index for index, member in enumerate(members)}
    broken = {}
    fetched = fetch_all(members)
    while some := list(itertools.islice(fetched, _AT_ONCE)):
        for (member, _), image, reason in zip(some, *decode([payload for _, payload in some]), strict=True):
            images[place[member]] = image
            if reason is not None:
                broken[member.path] = reason
        on_images(len(some))
    return images, broken
