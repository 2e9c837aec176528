"""List all images in the folders, archives and pickles that a user gives.

To support another container: write its reader in a module beside this one, and add a row to `CONTAINERS`.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.data.sources.folders import FolderReader
from nilr.data.sources.members import PICKLE_SUFFIXES, Listing, Reader, container_name, is_unwanted_class, read_error
from nilr.data.sources.pickles import PickleReader
from nilr.data.sources.tars import TarReader, is_compressed, is_tar
from nilr.data.sources.zips import ZipReader
from nilr.errors import DataError, UsageError


class Container(NamedTuple):
    """A kind of file that contains images."""

    matches: Callable[[bytes, str, Path], bool]  # of the file's first `HEAD_SIZE` bytes, their description, its path
    reader: Callable[[Path, str, frozenset[str] | None], Reader]  # of its path, the prefix, the synsets to list


CONTAINERS: Final = (
    Container(lambda head, what, path: is_compressed(head) or is_tar(head), TarReader),
    Container(
        lambda head, what, path: what in ("a zip archive", "an empty zip archive"),
        lambda path, prefix, only: ZipReader(path, prefix),
    ),
    Container(
        lambda head, what, path: what == "a Python pickle" or path.suffix in PICKLE_SUFFIXES,
        lambda path, prefix, only: PickleReader(path, prefix),
    ),
)

_EXPECTED: Final = "give a folder, tar, zip or pickle of images; `docs/datasets.md` shows each layout"
_HINTS: Final = {
    "an HTML page": "the download saved a web page; get the file itself",
    "a Git LFS pointer": "get the file itself with `git lfs pull`",
    "a Parquet file": "save its images into one folder per class, and give that folder",
    "a 7-Zip archive": "unpack it, and give the folder",
    "a RAR archive": "unpack it, and give the folder",
    "a Python pickle": "extract the pickles from the archive, and give them directly",
    "a zip archive": "archives inside a zip are not read: unpack the outer one, and give the folder",
}
_ARCHIVES: Final = ("a tar archive", "a zip archive", "a Python pickle")
_OTHER_PHASE: Final = re.compile(r"train_phase_(val|test)")
_NO_SPLIT: Final = "further images of the training classes, which belong to no split"


def list_sources(paths: Sequence[Path], *, only: frozenset[str] | None = None) -> Listing:
    """List all files of folders, archives and pickles.

    The archives in a folder are read only if the folder has no loose images.

    Args:
        paths: what the user gave.
        only: the synsets to list, if a source may have many more; None for all.

    Raises:
        DataError: a source is missing, unsupported, truncated, corrupt or hostile, or there is no image at all.
        UsageError: a source is given twice.
    """
    listing = Listing()
    seen: set[Path] = set()
    for path in paths:
        if (resolved := path.resolve()) in seen:
            raise UsageError(f"`{path}` is given twice", hint="give each source once")
        seen.add(resolved)
        if path.is_dir():
            _list_folder(path, resolved.name, only, listing)
        else:
            _open_file(path, container_name(path.name), only).list_into(listing)
    # If a path occurs twice in an archive, the later member counts, as when the archive is unpacked.
    listing.images = list({(id(image.reader), image.path): image for image in listing.images}.values())
    _list_pickles(listing)
    listing.images = [image.normalized() for image in listing.images]
    if not listing.images:
        raise _no_images(paths, listing)
    return listing


def _list_pickles(listing: Listing) -> None:
    """List the images of pickles in archives, unless there are other images."""
    has_images = bool(listing.images)
    for member in listing.pickles:
        if has_images:
            listing.others[member.path] = "a Python pickle"
        elif _OTHER_PHASE.search(member.path):
            listing.others[member.path] = _NO_SPLIT
        else:
            PickleReader(Path(member.path), container_name(member.path), member).list_into(listing)


def _list_folder(path: Path, prefix: str, only: frozenset[str] | None, listing: Listing) -> None:
    n_before = len(listing.images)
    inside = Listing(listing.images, listing.split_files, skipped_classes=listing.skipped_classes)
    FolderReader(path, prefix, only).list_into(inside)
    if len(listing.images) == n_before:
        for name, what in list(inside.others.items()):
            stem = container_name(name)
            if what not in _ARCHIVES and stem == name:
                continue
            del inside.others[name]
            if _OTHER_PHASE.search(name):
                listing.others[name] = _NO_SPLIT
            elif is_unwanted_class(Path(stem).name, only):
                listing.skipped_classes.add(Path(stem).name)
            else:
                _open_file(path / name.removeprefix(f"{prefix}/"), stem, only).list_into(listing)
    listing.others.update(inside.others)


def _open_file(path: Path, prefix: str, only: frozenset[str] | None) -> Reader:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"`{path}` is a pipe, a socket or a device, which can be read only once", hint=_EXPECTED)
        with path.open("rb") as file:
            head = file.read(HEAD_SIZE)
    except FileNotFoundError:
        raise DataError(f"there is no `{path}`", hint="give an existing folder, tar, zip or pickle") from None
    except OSError as error:
        raise read_error(path, error) from error
    what = describe_content(head)
    for container in CONTAINERS:
        if container.matches(head, what, path):
            return container.reader(path, prefix, only)
    hint = _HINTS.get(what, _EXPECTED)
    raise DataError(f"`{path}` is {what}, not a folder, tar, zip or pickle of images", hint=hint)


def _no_images(paths: Sequence[Path], listing: Listing) -> DataError:
    where = ", ".join(f"`{path}`" for path in paths)
    if listing.skipped_classes:
        found = f"only classes outside Mini-ImageNet, such as {min(listing.skipped_classes)}"
        return DataError(f"there is no image to pack in {where}: {found}", hint="pack another dataset with --name")
    name, what = next(iter(listing.others.items()), ("", ""))
    found = f"`{name}` is not an image but {what}" if name else "it contains no file"
    return DataError(f"there is no image in {where}: {found}", hint=_HINTS.get(what, _EXPECTED))
