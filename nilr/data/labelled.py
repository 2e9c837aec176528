"""A user's own images: a folder (or archive) with a folder per class, or just images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nilr.data.digests import Images
from nilr.data.sources.decoding import decode_images
from nilr.data.sources.members import Member, Payload
from nilr.data.sources.opening import list_sources
from nilr.errors import DataError

MAX_IMAGES = 10_000


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes.

    Attributes:
        images: uint8 (n, S, S, 3), in the order of `names`.
        names: each image's path below the folder.
        labels: the name of each image's folder; None for one that lies in no folder.
    """

    images: Images
    names: list[str]
    labels: list[str | None]


def read_labelled(path: Path, size: int) -> LabelledImages:
    """Read all images of a folder at `size` pixels, in path order.

    Raises:
        DataError: it is not there, holds no image or too many, or an image cannot be read; all such are named.
    """
    members = sorted(list_sources([path]).images, key=lambda member: member.path)
    if len(members) > MAX_IMAGES:
        raise DataError(
            f"`{path}` holds {len(members)} images, more than {MAX_IMAGES}",
            hint="pack a dataset of this size with `nilr prepare-data`",
        )
    payloads = _fetch(members)
    images, reasons = decode_images([payloads[member.path] for member in members], size, "bilinear")
    names = [member.path.partition("/")[2] for member in members]
    broken = [f"`{name}` {reason}" for name, reason in zip(names, reasons, strict=True) if reason]
    if broken:
        raise DataError(f"`{path}`: {'; '.join(broken)}", hint="replace these images or take them away")
    return LabelledImages(images, names, [_class_of(name) for name in names])


def _fetch(members: list[Member]) -> dict[str, Payload]:
    readers = {id(member.reader): member.reader for member in members}
    return {
        member.path: payload
        for key, reader in readers.items()
        for member, payload in reader.fetch([m for m in members if id(m.reader) == key])
    }


def _class_of(name: str) -> str | None:
    folder, _, _ = name.rpartition("/")
    return folder.rpartition("/")[2] or None
