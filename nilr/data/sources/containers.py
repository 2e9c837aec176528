"""List all images in the folders, archives and files of arrays that a user gives.

To support another container: write its reader in a module beside this one, and add a row to `CONTAINERS`.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, cast

from nilr.config.base import SPLITS
from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.data.sources.annotations import sort_annotated
from nilr.data.sources.array_files import ArrayFile, ArrayReader, GivenArrayFile
from nilr.data.sources.folders import FolderReader
from nilr.data.sources.members import (
    SPECIAL_FILE,
    Listing,
    Member,
    Reader,
    by_kind,
    container_name,
    is_array_file,
    is_image_name,
    is_unwanted_class,
    read_error,
)
from nilr.data.sources.parquet import ParquetReader
from nilr.data.sources.tars import TarReader, is_compressed, is_tar
from nilr.data.sources.zips import ZipReader, is_zip
from nilr.errors import DataError, UsageError
from nilr.words import counted, some


class Container(NamedTuple):
    """A kind of file that contains images."""

    matches: Callable[[bytes, str, Path], bool]  # of the file's first `HEAD_SIZE` bytes, their description, its path
    reader: Callable[[Path, str, frozenset[str] | None], Reader]  # of its path, the prefix, the synsets to list


CONTAINERS: Final = (
    Container(
        lambda head, what, path: is_array_file(what, path.name),
        lambda path, prefix, only: GivenArrayFile(path),
    ),
    Container(lambda head, what, path: is_compressed(head) or is_tar(head), TarReader),
    Container(
        lambda head, what, path: is_zip(what, path),
        lambda path, prefix, only: ZipReader(path, prefix),
    ),
)

_KINDS: Final = "folder, tar, zip, array or Parquet file of images"
_UNPACK: Final = "unpack it, and give the folder"
_AS_FOLDERS: Final = "save its images into one folder per class, and give that folder"
# The hint for a file of a kind that contains these words; the first that matches counts.
_HINTS: Final = {
    "compressed image": "decompress it",
    "inside a": "unpack the outer archive, and give the folder",
    "beside": "move it out of the folder, or give it alone",
    "HTML page": "the download saved a web page; get the file itself",
    "Git LFS": "get the file itself with `git lfs pull`",
    "encrypted": "unpack it with its password, and give the folder",
    "compressed with": "unpack it with another program, such as 7-Zip, and give the folder",
    "sparse": "create the tar without `--sparse`",
    "symbolic link": "create the archive with files instead of links, for a tar with `tar --dereference`",
    "link to a missing": "restore the file that it refers to, or remove the link",
    "cannot be read": "change its permissions",
    "image of type": "convert it to JPEG or PNG",
    "7-Zip": _UNPACK,
    "RAR": _UNPACK,
    "Zstandard": "decompress it with `unzstd`, and give the tar",
    "LZ4": "decompress it with `unlz4`, and give the tar",
    **dict.fromkeys(("lzip", "compress file"), "decompress it, and give the tar"),
    "split zip": "join the parts with `zip -s 0`, and give the whole zip",
    "HDF5": f"{_AS_FOLDERS} (torchmeta stores an array per class in `datasets`); give a pack of nilr with --data",
    **dict.fromkeys(("Parquet", "Arrow", "TFRecord", "MATLAB", "NumPy"), _AS_FOLDERS),
}
_OTHER_PHASE: Final = re.compile(r"train_phase_(val|test)")
_NO_SPLIT: Final = "further images of the training classes, which belong to no split"
_URL: Final = re.compile(r"([a-z][a-z0-9+.]+):/+")


def list_sources(
    paths: Sequence[Path],
    *,
    only: frozenset[str] | None = None,
    skip_broken: bool = False,
    single_images: bool = False,
) -> Listing:
    """List all files of folders, archives and files of arrays.

    The archives in a folder are read only if the folder has no loose images.

    Args:
        paths: what the user gave.
        only: the synsets to list, if a source may have many more; None for all.
        skip_broken: list files whose images cannot be read in `unread`; without it they are an error.
        single_images: whether a path may be an image.

    Raises:
        DataError: a source is missing, unsupported, truncated, corrupt or hostile, or there is no image at all.
        UsageError: a source is given twice.
    """
    listing, given = Listing(), Listing()
    seen: set[Path] = set()
    kinds = f"{_KINDS}, or an image" if single_images else _KINDS
    for path in paths:
        resolved = Path(os.path.realpath(path))  # Path.resolve raises a RuntimeError for a link to itself
        if resolved in seen:
            raise UsageError(f"`{path}` is given twice", hint="give each source once")
        seen.add(resolved)
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises a PermissionError
            _list_folder(path, resolved.name, only, listing)
        else:
            reader, what = _find_reader(path, container_name(path.name), only, kinds)
            if single_images and (what.endswith(" image") or is_image_name(path.name)):
                folder = FolderReader(path.parent, resolved.parent.name)
                listing.images.append(Member(f"{resolved.parent.name}/{path.name}", path.stat().st_size, folder, path))
                continue
            if reader is None:
                raise DataError(f"`{path}` is {what}, not a {kinds}", hint=_hint(what, kinds))
            reader.list_into(given if isinstance(reader, GivenArrayFile) else listing)
    list_arrays(given.arrays, listing)
    _list_archives_in_zips(listing, only)
    listing.leave_out_links()
    _list_arrays_in_archives(listing)
    listing.images = _normalized(_latest_images(listing))
    sort_annotated(listing)
    if not listing.images:
        raise _no_images(paths, listing, kinds)
    if listing.unread and not skip_broken:
        hint = f"{_hint(next(iter(listing.unread.values())), kinds)}; or pass --skip-broken to leave such files out"
        raise DataError(f"not all images can be read: {by_kind(listing.unread)}", hint=hint)
    return listing


def _latest(members: Sequence[Member]) -> list[Member]:
    """Return the members; of those with one path in an archive the last, as when the archive is unpacked."""
    return list({(id(member.reader), member.path): member for member in members}.values())


def _latest_images(listing: Listing) -> list[Member]:
    """Return the latest images, and add a warning if there are earlier ones of the same path in an archive."""
    images = _latest(listing.images)
    if n_repeated := len(listing.images) - len(images):
        ((_, path), _), *_ = Counter((id(image.reader), image.path) for image in listing.images).most_common(1)
        listing.warnings.append(
            f"archives contain {counted(n_repeated, 'image')} of the same path as a later one, such as `{path}`: the "
            "last one is used"
        )
    return images


def _normalized(images: Sequence[Member]) -> list[Member]:
    """Return images with normalised paths; DataError if two folders get the same path."""
    normalized, folders = [image.normalized() for image in images], dict[str, str]()
    for before, after in zip(images, normalized, strict=True):
        if before.path.isascii():
            continue
        folder = before.path.rpartition("/")[0]
        if (other := folders.setdefault(after.path.rpartition("/")[0], folder)) != folder:
            what = f"the folders {other!a} and {folder!a} differ only in the form of their accents"
            raise DataError(what, hint="rename one of them")
    return normalized


def _list_archives_in_zips(listing: Listing, only: frozenset[str] | None) -> None:
    """List the images of archives in zips without other images; archives in these archives are not opened."""
    with_images = {id(image.reader) for image in listing.images}
    inside = replace(listing, archives=[])  # shares all else
    for archive in listing.archives:
        zipped = cast(ZipReader, archive.reader)
        opened = partial(zipped.open_member, archive)
        with opened() as file:
            head = file.read(HEAD_SIZE)
        has_images = id(zipped) in with_images
        what, name, stem = describe_content(head), Path(archive.path), container_name(archive.path)
        if is_unwanted_class(Path(stem).name, only):
            listing.skipped_classes.add(Path(stem).name)
        elif not (is_compressed(head) or is_tar(head) or what == "a zip archive") or has_images:
            listing.unread[archive.path] = f"is {what} beside other images" if has_images else f"is {what} inside a zip"
        elif what == "a zip archive":
            ZipReader(name, stem, opened).list_into(inside)
        else:
            TarReader(name, stem, only, opened).list_into(inside)
    for archive in inside.archives:
        listing.unread[archive.path] = "is an archive inside an archive in a zip"


def _list_arrays_in_archives(listing: Listing) -> None:
    """List the images of files of arrays in archives, unless there are other images."""
    list_arrays(_not_left_out(_latest(listing.arrays), listing, has_images=bool(listing.images)), listing)


def list_arrays(files: Sequence[Member], listing: Listing) -> None:
    """List the images of files of arrays, and of Parquet files; those of one folder belong together."""
    by_folder: defaultdict[str, list[ArrayFile]] = defaultdict(list)
    for member in files:
        file = (
            ArrayFile(member.path, member.where)
            if member.reader.kind == "folder"
            else ArrayFile(member.path, Path(member.path), member)
        )
        by_folder[member.path.rpartition("/")[0]].append(file)
    for folder, content in by_folder.items():
        if parquet := [file for file in content if file.kind == "parquet"]:
            ParquetReader(parquet, folder or "parquet").list_into(listing)
        arrays = [file for file in content if file.kind != "parquet"]
        labels = [file for file in arrays if file.has_labels]
        for file in arrays if len(labels) == len(arrays) else [file for file in arrays if not file.has_labels]:
            beside = [each for each in labels if each.split in (None, file.split) and each is not file]
            ArrayReader(file, beside).list_into(listing)


def _not_left_out(files: Sequence[Member], listing: Listing, *, has_images: bool) -> list[Member]:
    """Return the files of arrays to read; add those without images of a split, or beside images, to the other files."""
    chosen = []
    for file in files:
        is_parquet = file.filename.endswith(".parquet")
        what = (
            "a Parquet file"
            if is_parquet
            else "a Python pickle"
            if ArrayFile(file.path, Path(file.path)).kind == "pickle"
            else ""
        )
        if _OTHER_PHASE.search(file.path):
            listing.others[file.path] = _NO_SPLIT
        elif has_images and (is_parquet or (what and any(split in file.filename for split in SPLITS))):
            listing.unread[file.path] = f"is {what} beside other images"
        elif has_images:
            listing.others[file.path] = what or "a NumPy array"
        else:
            chosen.append(file)
    return chosen


def _list_folder(path: Path, prefix: str, only: frozenset[str] | None, listing: Listing) -> None:
    n_before = len(listing.images)
    inside = Listing(listing.images, listing.split_files, listing.annotations, skipped_classes=listing.skipped_classes)
    FolderReader(path, prefix, only).list_into(inside)
    listing.unread.update(inside.unread)
    listing.others.update(inside.others)
    has_images = len(listing.images) > n_before
    list_arrays(_not_left_out(inside.arrays, listing, has_images=has_images), listing)
    for archive in inside.archives:
        stem = container_name(archive.path)
        reader, what = _find_reader(archive.where, stem, only)
        if _OTHER_PHASE.search(archive.path):
            listing.others[archive.path] = _NO_SPLIT
        elif is_unwanted_class(Path(stem).name, only):
            listing.skipped_classes.add(Path(stem).name)
        elif reader and not has_images:
            reader.list_into(listing)
        else:
            listing.unread[archive.path] = f"is {what} beside other images" if reader else f"is {what}"


def _find_reader(
    path: Path, prefix: str, only: frozenset[str] | None, kinds: str = _KINDS
) -> tuple[Reader | None, str]:
    """Return the reader of a file, None if there is none for its kind, and the kind."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"`{path}` is {SPECIAL_FILE}, which can be read only once", hint=_hint("", kinds))
        with path.open("rb") as file:
            head = file.read(HEAD_SIZE)
    except FileNotFoundError:
        if _URL.match(str(path)):
            url = _URL.sub(r"\1://", str(path))
            raise DataError(
                f"`{url}` is a URL: nilr downloads nothing", hint="download it, and give the file"
            ) from None
        raise DataError(f"there is no `{path}`", hint=f"give an existing {kinds}") from None
    except OSError as error:
        raise read_error(path, error) from error
    what = describe_content(head)
    for container in CONTAINERS:
        if container.matches(head, what, path):
            return container.reader(path, prefix, only), what
    return None, what


def _hint(what: str, kinds: str = _KINDS) -> str:
    expected = f"give a {kinds}; `docs/datasets.md` shows each layout"
    return next((hint for words, hint in _HINTS.items() if words in what), expected)


def _no_images(paths: Sequence[Path], listing: Listing, kinds: str) -> DataError:
    where = some([f"`{path}`" for path in paths])
    if listing.skipped_classes:
        found = f"only classes outside Mini-ImageNet, such as {min(listing.skipped_classes)}"
        return DataError(f"there is no image to pack in {where}: {found}", hint="to pack another data set, give --name")
    if listing.unread:
        found, what = by_kind(listing.unread), next(iter(listing.unread.values()))
    else:
        # A file with a hint of its own explains more than a text file.
        name, what = max(listing.others.items(), key=lambda item: _hint(item[1]) != _hint(""), default=("", ""))
        found = f"`{name}` is not an image but {what}" if name else "it contains no file"
    return DataError(f"there is no image in {where}: {found}", hint=_hint(what, kinds))
