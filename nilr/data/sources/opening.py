"""From the paths that a user gives to a list of all images in them, each kind of file known by its content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.data.sources.arrays import PickleReader
from nilr.data.sources.folders import FolderReader
from nilr.data.sources.members import Listing, Reader, cannot_read, container_name, is_unwanted_class
from nilr.data.sources.tars import TarReader, is_compressed, is_tar
from nilr.data.sources.zips import ZipReader
from nilr.errors import DataError, UsageError

_OTHER_PHASE: Final = re.compile(r"train_phase_(val|test)")
_NO_SPLIT: Final = "further images of the training classes, which are in no split"
_ARCHIVES: Final = ("a tar archive", "a zip archive", "a Python pickle")
_HINTS: Final = {
    "an HTML page": "a site's page was saved in place of the file; get the file itself",
    "a Git LFS pointer": "fetch it with `git lfs pull`",
    "a Parquet file": "save its images into a folder per class and give that folder",
    "a 7-Zip archive": "unpack it and give the folder",
    "a RAR archive": "unpack it and give the folder",
    "a Python pickle": "take the pickles out of the archive and give them themselves",
    "a zip archive": "an archive within a zip is not read: unpack the outer one and give the folder",
}
_EXPECTED: Final = "give a folder, tar, zip or pickle of images; `docs/datasets.md` shows each layout"


def list_sources(paths: Sequence[Path], *, only: frozenset[str] | None = None) -> Listing:
    """List all files of folders, archives and pickles; the archives in a folder count where no image lies loose in it.

    Args:
        paths: what the user gave.
        only: the synsets to look into where there may be many more; None for all.

    Raises:
        DataError: one is not there, is of no such kind, truncated, corrupt or hostile, or there is no image in all.
        UsageError: one is given twice.
    """
    listing = Listing()
    seen: set[Path] = set()
    for path in paths:
        if (resolved := path.resolve()) in seen:
            raise UsageError(f"`{path}` is given twice", hint="name each source once")
        seen.add(resolved)
        if path.is_dir():
            _list_folder(path, resolved.name, only, listing)
        else:
            _open_file(path, container_name(path.name), only).list_into(listing)
    # A path that stands twice in an archive is the later one, as when it is unpacked.
    listing.images = list({(id(image.reader), image.path): image for image in listing.images}.values())
    if listing.pickles:
        _list_pickles(listing)
    if not listing.images:
        raise _nothing(paths, listing)
    return listing


def _list_pickles(listing: Listing) -> None:
    """List the images of pickles in archives, unless images lie beside them."""
    beside = bool(listing.images)
    for member in listing.pickles:
        if beside:
            listing.others[member.path] = "a Python pickle"
        elif _OTHER_PHASE.search(member.path):
            listing.others[member.path] = _NO_SPLIT
        else:
            PickleReader(Path(member.path), container_name(member.path), member).list_into(listing)


def _list_folder(path: Path, prefix: str, only: frozenset[str] | None, listing: Listing) -> None:
    before = len(listing.images)
    own = Listing(listing.images, listing.tables, left_out=listing.left_out)
    FolderReader(path, prefix, only).list_into(own)
    if len(listing.images) == before:
        archives = [name for name, what in own.others.items() if what in _ARCHIVES or container_name(name) != name]
        for name in archives:
            del own.others[name]
            if _OTHER_PHASE.search(name):
                listing.others[name] = _NO_SPLIT
            elif is_unwanted_class(Path(container_name(name)).name, only):
                listing.left_out.add(Path(container_name(name)).name)
            else:
                file = path / name.removeprefix(f"{prefix}/")
                _open_file(file, container_name(name), only).list_into(listing)
    listing.others.update(own.others)


def _open_file(path: Path, prefix: str, only: frozenset[str] | None) -> Reader:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"`{path}` is a pipe, a socket or a device, which is read only once", hint=_EXPECTED)
        with path.open("rb") as file:
            head = file.read(HEAD_SIZE)
    except FileNotFoundError:
        raise DataError(f"there is no `{path}`", hint="give a folder, tar, zip or pickle that is there") from None
    except OSError as error:
        raise cannot_read(path, error) from error
    what = describe_content(head)
    if is_compressed(head) or is_tar(head):
        return TarReader(path, prefix, only)
    if what in ("a zip archive", "an empty zip archive"):
        return ZipReader(path, prefix)
    if what == "a Python pickle" or path.suffix in (".pkl", ".pickle"):
        return PickleReader(path, prefix)
    hint = _HINTS.get(what, _EXPECTED)
    raise DataError(f"`{path}` is {what}, not a folder, tar, zip or pickle of images", hint=hint)


def _nothing(paths: Sequence[Path], listing: Listing) -> DataError:
    where = ", ".join(f"`{path}`" for path in paths)
    if listing.left_out:
        found = f"only classes that are not of Mini-ImageNet, such as {min(listing.left_out)}"
        return DataError(f"there is no image to pack in {where}: {found}", hint="--name packs any other dataset")
    name, what = next(iter(listing.others.items()), ("", ""))
    found = f"`{name}` is not an image: it is {what}" if name else "there is no file in it"
    return DataError(f"there is no image in {where}: {found}", hint=_HINTS.get(what, _EXPECTED))
