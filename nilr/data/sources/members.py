"""What every kind of source has in common: members, what is listed of them, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.errors import DataError

TABLES: Final = ("train.csv", "val.csv", "test.csv")
MAX_TABLE_BYTES: Final = 64 * 2**20
MAX_NAME: Final = 255

_MAX_PATH: Final = 4096

_IMAGE: Final = re.compile(r".*\.(jpe?g|jpe|jfif|png|bmp|gif|tiff?|webp|p[pgb]m|jp2|avif)", re.IGNORECASE)
_JUNK: Final = re.compile(r"(?:^|/)(?:\.|(?:__MACOSX|Thumbs\.db|desktop\.ini|@eaDir)(?:/|\Z))")
_CLEAN: Final = re.compile(r"(?:[^/\\:\0.][^/\\:\0]{0,254}/){0,8}[^/\\:\0.][^/\\:\0]{0,254}")
_SYNSET: Final = re.compile(r"n\d{8}")


class Unreadable(NamedTuple):
    """Stands where an image should; the reason goes on from its name: "is truncated"."""

    reason: str


Payload = bytes | npt.NDArray[np.uint8] | Unreadable


class Member(NamedTuple):
    """One image of a source.

    Attributes:
        path: its path, with the names of the source and of the archives it lies in as directories.
        size: bytes.
        reader: who reads it.
        where: where, in the reader's own terms.
    """

    path: str
    size: int
    reader: Reader
    where: Any

    @property
    def filename(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


@dataclass
class Listing:
    """What the sources hold.

    Attributes:
        images: every image.
        tables: the content of each train.csv, val.csv and test.csv, by path.
        pickles: pickles in an archive.
        others: what each other file is, by path.
        left_out: classes that were not looked into, since no split has them.
        table_bytes: size of all tables; what is beyond `MAX_TABLE_BYTES` is no table.
    """

    images: list[Member] = field(default_factory=list)
    tables: dict[str, bytes] = field(default_factory=dict)
    pickles: list[Member] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    table_bytes: int = 0

    def add(self, member: Member, read: Callable[[int], bytes]) -> None:
        """Sort in a file; `read(n)` gives its first n bytes."""
        if _IMAGE.fullmatch(member.filename):
            self.images.append(member)
        elif member.filename in TABLES and self.table_bytes + member.size <= MAX_TABLE_BYTES:
            self.table_bytes += member.size
            self.tables[member.path] = read(member.size)
        elif (what := describe_content(read(HEAD_SIZE))).endswith(" image"):
            self.images.append(member)
        elif member.reader.kind != "folder" and (
            what == "a Python pickle" or member.path.endswith((".pkl", ".pickle"))
        ):
            self.pickles.append(member)
        else:
            self.others[member.path] = what


class Reader(Protocol):
    """Reads one folder, archive or pickle."""

    @property
    def kind(self) -> str:
        """What it is: folder, tar, zip, pickle."""

    def list_into(self, listing: Listing) -> None:
        """List every file, and read no image.

        Raises:
            DataError: it is truncated, corrupt or hostile.
        """

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some of its members, in the order that is cheapest to read.

        Raises:
            DataError: it cannot be read any more.
        """


def cannot_read(path: Path, error: OSError) -> DataError:
    """Return the error for a source, or a file of one, that the system does not let us read."""
    return DataError(
        f"cannot read `{path}`: {(error.strerror or str(error)).lower()}",
        hint="check that it is there, whole, and yours to read",
    )


def is_junk(path: str) -> bool:
    """Tell whether a file is what systems leave behind (`__MACOSX`, `._x`, `.DS_Store`, `Thumbs.db`), or hidden."""
    return _JUNK.search(path) is not None


def safe_path(name: str, archive: str) -> str:
    """Return the name of an archive's member as a plain relative path.

    Raises:
        DataError: it is absolute, leads out of the archive, or is longer than any system's paths.
    """
    if _CLEAN.fullmatch(name):
        return name
    parts = name.replace("\\", "/").split("/")
    absolute = len(parts) > 1 and re.fullmatch(r"|[A-Za-z]:", parts[0]) is not None
    if absolute or ".." in parts or "\0" in name:
        raise DataError(
            f"`{archive}` has a member named {name!r}, which leads out of the archive",
            hint="such an archive is broken or hostile; get it from somewhere else",
        )
    if len(name) > _MAX_PATH or max(map(len, parts)) > MAX_NAME:
        raise DataError(
            f"`{archive}` has a member whose name begins with {name[:40]!r} and has {len(name):,} characters",
            hint=f"a name has at most {MAX_NAME} characters, and a path {_MAX_PATH:,}",
        )
    return "/".join(part for part in parts if part not in ("", "."))


def is_unwanted_class(name: str, only: frozenset[str] | None) -> bool:
    """Tell whether a folder or class tar is a synset that is not among `only` (None: all are wanted)."""
    return only is not None and name not in only and _SYNSET.fullmatch(name) is not None


def container_name(name: str) -> str:
    """Return an archive's name without what says that it is one: `train.tar.gz` -> `train`."""
    return re.sub(r"(\.(tar|tgz|tbz2?|txz|zip|pkl|pickle|gz|bz2|xz))+$", "", name, flags=re.IGNORECASE) or name
