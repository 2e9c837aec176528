"""What all sources share: members, the listing of what a source contains, and the interface of a reader."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.errors import DataError

SPLIT_FILES: Final = ("train.csv", "val.csv", "test.csv")
PICKLE_SUFFIXES: Final = (".pkl", ".pickle")
MAX_SPLIT_FILE_BYTES: Final = 64 * 2**20
MAX_NAME: Final = 255

_MAX_PATH: Final = 4096

_IMAGE: Final = re.compile(r".*\.(jpe?g|jpe|jfif|png|bmp|gif|tiff?|webp|p[pgb]m|jp2|avif)", re.IGNORECASE)
_JUNK: Final = re.compile(r"(?:^|/)(?:\.|(?:__MACOSX|Thumbs\.db|desktop\.ini|@eaDir)(?:/|\Z))")
_PLAIN_PATH: Final = re.compile(r"(?:[^/\\:\0.][^/\\:\0]{0,254}/){0,8}[^/\\:\0.][^/\\:\0]{0,254}")
_SYNSET: Final = re.compile(r"n\d{8}")


class Unreadable(NamedTuple):
    """Replaces an image that cannot be read; the reason follows the image's name: "is truncated"."""

    reason: str


Payload = bytes | npt.NDArray[np.uint8] | Unreadable


class Member(NamedTuple):
    """One image of a source."""

    path: str  # its path, with the names of the source and of the archives around it as directories
    size: int  # bytes
    reader: "Reader"  # the reader of its container
    where: Any  # its place, in a form that only the reader uses

    @property
    def filename(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def normalized(self) -> "Member":
        """Return the member with the composed form of its path: some systems store `é` as `e` and an accent."""
        return self if self.path.isascii() else self._replace(path=unicodedata.normalize("NFC", self.path))


@dataclass
class Listing:
    """What the sources contain; files are named by their path."""

    images: list[Member] = field(default_factory=list)
    split_files: dict[str, bytes] = field(default_factory=dict)  # content of each train.csv, val.csv and test.csv
    pickles: list[Member] = field(default_factory=list)  # pickles in an archive
    others: dict[str, str] = field(default_factory=dict)  # what each other file is
    skipped_classes: set[str] = field(default_factory=set)  # not listed, because no split has them
    split_file_bytes: int = 0  # total size of split files; those beyond `MAX_SPLIT_FILE_BYTES` count as others

    def add(self, member: Member, read: Callable[[int], bytes]) -> None:
        """Add a file; `read(n)` returns its first n bytes."""
        if is_image_name(member.filename):
            self.images.append(member)
        elif member.filename in SPLIT_FILES and self.split_file_bytes + member.size <= MAX_SPLIT_FILE_BYTES:
            self.split_file_bytes += member.size
            self.split_files[member.path] = read(member.size)
        elif (what := describe_content(read(HEAD_SIZE))).endswith(" image"):
            self.images.append(member)
        elif member.reader.kind != "folder" and (what == "a Python pickle" or member.path.endswith(PICKLE_SUFFIXES)):
            self.pickles.append(member)
        else:
            self.others[member.path] = what


class Reader(Protocol):
    """Reads one container: a folder, an archive or a pickle.

    Readers are made from the path of the container, the prefix of all listed paths, and, if the container may have many
    more, the synsets to list. All methods raise DataError if it is unreadable, truncated, corrupt or hostile.
    """

    @property
    def kind(self) -> str:
        """Kind of the container: folder, tar, zip, pickle."""

    def list_into(self, listing: Listing) -> None:
        """Add every file to the listing, without reading any image."""

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some members of the container, in the order that is fastest to read."""


def fetch_all(members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
    """Read members of any number of containers, one container after the other."""
    by_reader: dict[Reader, list[Member]] = defaultdict(list)
    for member in members:
        by_reader[member.reader].append(member)
    for reader, of_reader in by_reader.items():
        yield from reader.fetch(of_reader)


def read_error(path: Path, error: OSError, hint: str = "check that it exists, is complete and readable") -> DataError:
    """Return the error for a source, or a file of one, that the operating system cannot read."""
    return DataError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}", hint=hint)


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return _IMAGE.fullmatch(name) is not None


def is_junk(path: str) -> bool:
    """Return whether a file is hidden or created by an operating system (`__MACOSX`, `.DS_Store`, `Thumbs.db`)."""
    return _JUNK.search(path) is not None


def safe_path(name: str, archive: Path) -> str:
    """Return the name of an archive's member as a plain relative path; DataError if it leads out of the archive."""
    if _PLAIN_PATH.fullmatch(name):
        return name
    parts = name.replace("\\", "/").split("/")
    absolute = len(parts) > 1 and re.fullmatch(r"|[A-Za-z]:", parts[0]) is not None
    if absolute or ".." in parts or "\0" in name:
        raise DataError(
            f"`{archive}` has a member named {name!r}, which leads out of the archive",
            hint="the archive is broken or hostile; get it from another place",
        )
    if len(name) > _MAX_PATH or max(map(len, parts)) > MAX_NAME:
        raise DataError(
            f"`{archive}` has a member whose name begins with {name[:40]!r} and has {len(name):,} characters",
            hint=f"shorten names to {MAX_NAME} characters, and paths to {_MAX_PATH:,}",
        )
    return "/".join(part for part in parts if part not in ("", "."))


def is_unwanted_class(name: str, only: frozenset[str] | None) -> bool:
    """Return whether a folder or class tar is a synset outside `only` (None: all are wanted)."""
    return only is not None and name not in only and _SYNSET.fullmatch(name) is not None


def container_name(name: str) -> str:
    """Return an archive's name without its suffixes: `train.tar.gz` -> `train`."""
    return re.sub(r"(\.(tar|tgz|tbz2?|txz|zip|pkl|pickle|gz|bz2|xz))+$", "", name, flags=re.IGNORECASE) or name
