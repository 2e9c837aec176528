"""Read a user's own images: a folder or archive with one folder per class, or without folders, or single files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nilr.config.base import Fit, Resample
from nilr.data.digests import Images
from nilr.data.sources.containers import list_sources
from nilr.data.sources.decoding import decode_images
from nilr.data.sources.members import by_kind, fetch_all
from nilr.errors import DataError
from nilr.words import counted

MAX_IMAGES: Final = 10_000


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes."""

    images: Images  # uint8 (n, S, S, 3), in the order of `names`
    names: list[str]  # each image's path below its source, or with the name of the source if some would be equal
    labels: list[str | None]  # the name of each image's folder; None for an image outside folders
    warnings: list[str] = field(default_factory=list)


def read_labelled(
    paths: Sequence[Path],
    size: int,
    *,
    resample: Resample = "bilinear",
    fit: Fit = "stretch",
    skip_broken: bool = False,
) -> LabelledImages:
    """Read all images of folders and archives, and single images, in path order; the arguments are `decode_images`'.

    Raises:
        DataError: a source or, without `skip_broken`, an image cannot be read, or there are too many images.
    """
    listing = list_sources(paths, skip_broken=skip_broken, single_images=True)
    members = sorted(listing.images, key=lambda member: member.path)
    where = f"`{paths[0]}`" + (f" and {counted(len(paths) - 1, 'other source')}" if len(paths) > 1 else "")
    if len(members) > MAX_IMAGES:
        raise DataError(
            f"{where} contains {len(members)} images, more than {MAX_IMAGES}",
            hint="pack a dataset of this size with `prepare-data`",
        )
    payloads = dict(fetch_all(members))
    images, reasons = decode_images([payloads[member] for member in members], size, resample, fit)
    broken = {member.path: reason for member, reason in zip(members, reasons, strict=True) if reason}
    good = [index for index, reason in enumerate(reasons) if reason is None]
    if not good or (broken and not skip_broken):
        hint = "replace or remove these images" + ("; or pass --skip-broken to leave them out" if good else "")
        raise DataError(f"not all images in {where} can be read: {by_kind(broken)}", hint=hint)
    warnings = list(listing.warnings)
    if broken := listing.unread | broken:
        warnings.append(f"skipped {counted(len(broken), 'unreadable file')}: {by_kind(broken)}")
    full = [members[index].path for index in good]
    names = [path.partition("/")[2] for path in full]
    labels = [name.rpartition("/")[0].rpartition("/")[2] or None for name in names]
    return LabelledImages(images[good], full if len(set(names)) < len(names) else names, labels, warnings)
