"""Read a user's own images: a folder or archive with one folder per class, or without folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nilr.data.digests import Images
from nilr.data.sources.containers import list_sources
from nilr.data.sources.decoding import decode_images
from nilr.data.sources.members import fetch_all
from nilr.errors import DataError

MAX_IMAGES: Final = 10_000


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes."""

    images: Images  # uint8 (n, S, S, 3), in the order of `names`
    names: list[str]  # each image's path below the folder
    labels: list[str | None]  # the name of each image's folder; None for an image outside folders


def read_labelled(path: Path, size: int) -> LabelledImages:
    """Read all images of a folder or archive at `size` pixels, in path order; DataError lists unreadable images."""
    members = sorted(list_sources([path]).images, key=lambda member: member.path)
    if len(members) > MAX_IMAGES:
        raise DataError(
            f"`{path}` contains {len(members)} images, more than {MAX_IMAGES}",
            hint="pack a dataset of this size with `nilr prepare-data`",
        )
    payloads = dict(fetch_all(members))
    images, reasons = decode_images([payloads[member] for member in members], size, "bilinear")
    names = [member.path.partition("/")[2] for member in members]
    broken = [f"`{name}` {reason}" for name, reason in zip(names, reasons, strict=True) if reason]
    if broken:
        raise DataError(f"`{path}`: {'; '.join(broken)}", hint="replace or remove these images")
    return LabelledImages(images, names, [name.rpartition("/")[0].rpartition("/")[2] or None for name in names])
