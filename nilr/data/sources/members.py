"""What all sources share: members, the listing of what a source contains, and the interface of a reader."""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nilr.data.file_types import HEAD_SIZE, describe_content
from nilr.errors import DataError
from nilr.words import counted

SPLIT_FILES: Final = ("train.csv", "val.csv", "test.csv")
ANNOTATIONS: Final = "val_annotations.txt"
PICKLE_SUFFIXES: Final = (".pkl", ".pickle")
ARRAY_KINDS: Final = frozenset({"pickle", "npz", "npy"})  # of readers
ARRAY_SUFFIXES: Final = (".npz", ".npy", ".parquet")
MAX_SPLIT_FILE_BYTES: Final = 64 * 2**20
MAX_NAME: Final = 255
MAX_PATH: Final = 4096
SPECIAL_FILE: Final = "a pipe, a socket or a device"

_IMAGE: Final = re.compile(r".*\.(jpe?g|jpe|jfif|png|bmp|gif|tiff?|webp|p[pgb]m|jp2|avif)", re.IGNORECASE)
_UNSUPPORTED_IMAGE: Final = re.compile(
    r".*\.(hei[cf]|hif|jxl|psd|exr|dds|pcx|tga|cr[23w]|nef|arw|dng|raf|orf|rw2|pef|nrw|srw|3fr|iiq|x3f)", re.IGNORECASE
)
_ARCHIVES: Final = frozenset({
    "a tar archive", "a zip archive", "a part of a split zip archive", "a 7-Zip archive", "a RAR archive",
    "a gzip file", "a bzip2 file", "an xz file", "a Zstandard file", "an LZ4 file", "an lzip file", "a compress file",
    "an Arrow file", "a TFRecord file",
})  # fmt: skip
_ARCHIVE_SUFFIX: Final = r"\.(tar|tgz|tbz2?|txz|tzst|zip|z\d\d|7z|rar|gz|bz2|xz|zst|lz4|lz|z)"
# Files that may be compressed, or are themselves zip archives, but contain no images to pack.
_NO_ARCHIVE: Final = re.compile(
    r".*\.(csv|tsv|txt|md|json|jsonl|xml|ya?ml|html|log|py|npy|mat|docx|xlsx|pptx|od[tsp]|epub|npz|pth?|ckpt|keras|jar|whl)"
    r"(\.(gz|bz2|xz|zst|lz4|lz|z))?",
    re.IGNORECASE,
)
_JUNK: Final = re.compile(
    r"(?:^|/)(?:\.|(?:__MACOSX|(?:eh)?Thumbs\.db|desktop\.ini|@eaDir|\$RECYCLE\.BIN)(?:/|\Z))", re.IGNORECASE
)
_PLAIN_PATH: Final = re.compile(r"(?:[^/\\:\0.][^/\\:\0]{0,254}/){0,8}[^/\\:\0.][^/\\:\0]{0,254}")
_SYNSET: Final = re.compile(r"n\d{8}")
_PLACEHOLDER: Final = re.compile(r"((train|val|test)-)?class\d{3,}|\d+")


class Unreadable(NamedTuple):
    """Replaces an image that cannot be read; the reason follows the image's name: "is truncated"."""

    reason: str


# Opens an archive that is inside another one; the file can be sought, but seeking back may be slow.
Opener = Callable[[], AbstractContextManager[IO[bytes]]]
Payload = bytes | npt.NDArray[np.uint8] | Unreadable


class Member(NamedTuple):
    """One image of a source."""

    path: str  # its path, with the names of the source and of the archives around it as directories
    size: int  # bytes
    reader: "Reader"  # the reader of its container
    where: Any  # its place, in a form that only the reader uses
    turns: int = 0  # quarter turns, counter-clockwise, of the packed image

    @property
    def filename(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def source(self) -> str:
        """The name of the source that it is in."""
        return self.path.partition("/")[0]

    def normalized(self) -> "Member":
        """Return the member with the composed form of its path: some systems store `é` as `e` and an accent."""
        return self if self.path.isascii() else self._replace(path=unicodedata.normalize("NFC", self.path))


@dataclass
class Listing:
    """What the sources contain; files are named by their path."""

    images: list[Member] = field(default_factory=list)
    split_files: dict[str, bytes] = field(default_factory=dict)  # content of each train.csv, val.csv and test.csv
    annotations: dict[str, bytes] = field(default_factory=dict)  # content of each list of images and their classes
    archives: list[Member] = field(default_factory=list)  # archives in a folder or in a zip
    arrays: list[Member] = field(default_factory=list)  # pickles, files of NumPy and Parquet files
    unread: dict[str, str] = field(
        default_factory=dict
    )  # why each file with lost images cannot be read: "is encrypted"
    others: dict[str, str] = field(default_factory=dict)  # what each other file is
    warnings: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)  # path and target of each symbolic link in an archive
    skipped_classes: set[str] = field(default_factory=set)  # not listed, because no split has them
    split_file_bytes: int = 0  # total size of these files; those beyond `MAX_SPLIT_FILE_BYTES` count as others

    def synsets(self) -> set[str]:
        """Return the WordNet ids among the folders of the images."""
        return {part for image in self.images for part in image.path.split("/")[:-1] if is_synset(part)}

    def add(self, member: Member, read: Callable[[int], bytes]) -> None:
        """Add a file; `read(n)` returns its first n bytes."""
        name = member.filename
        if is_image_name(name):
            self.images.append(member)
        elif name in (*SPLIT_FILES, ANNOTATIONS) and self.split_file_bytes + member.size <= MAX_SPLIT_FILE_BYTES:
            self.split_file_bytes += member.size
            files = self.annotations if name == ANNOTATIONS else self.split_files
            files[member.path] = read(member.size)
        elif _UNSUPPORTED_IMAGE.fullmatch(name):
            self.unread[member.path] = f"is an image of type {name.rpartition('.')[2].upper()}"
        elif (what := describe_content(read(HEAD_SIZE))).endswith(" image"):
            self.images.append(member)
        elif is_array_file(what, name):
            self.arrays.append(member)
        elif (what not in _ARCHIVES and container_name(name) == name) or _NO_ARCHIVE.fullmatch(name):
            self.others[member.path] = what
        elif is_image_name(container_name(name)):
            self.unread[member.path] = "is a compressed image"
        elif member.reader.kind in ("folder", "zip"):
            self.archives.append(member)
        else:
            self.unread[member.path] = f"is {what} inside a {member.reader.kind}"

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link in an archive, to a path relative to its folder."""
        self.links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))

    def leave_out_links(self) -> None:
        """Add the symbolic links as files that are not read: no image is lost if the target is a listed one."""
        found = {image.path for image in self.images}
        for path, target in self.links.items():
            if self.links.get(target, target) in found:
                self.others[path] = "a symbolic link"
            else:
                self.leave_out(path, "a symbolic link")

    def leave_out(self, path: str, what: str) -> None:
        """Add a file that cannot be read, such as "a symbolic link"; its name decides whether images are lost."""
        name = path.rpartition("/")[2]
        if container_name(name) != name or any(known.fullmatch(name) for known in (_IMAGE, _UNSUPPORTED_IMAGE)):
            self.unread[path] = f"is {what}"
        else:
            self.others[path] = what


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


def damaged(path: Path, how: str) -> DataError:
    """Return the error for an archive that is damaged, such as "truncated"."""
    is_part = re.search(r"\.(\d{3}|aa|part\w*)$", path.name)
    hint = "download it again, and compare its size or SHA-256 with the published one"
    return DataError(f"`{path}` is {how}", hint="join all parts of the archive with `cat`" if is_part else hint)


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return _IMAGE.fullmatch(name) is not None


def is_array_file(what: str, name: str) -> bool:
    """Return whether a file that is described as `what` is a pickle, one of NumPy's npz and npy, or a Parquet file."""
    is_npz = what.endswith("zip archive") and name.lower().endswith(".npz")
    return is_npz or what in ("a Python pickle", "a NumPy array", "a Parquet file") or name.endswith(PICKLE_SUFFIXES)


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
    if len(name) > MAX_PATH or max(map(len, parts)) > MAX_NAME:
        raise DataError(
            f"`{archive}` has a member whose name begins with {name[:40]!r} and has {len(name):,} characters",
            hint=f"shorten names to {MAX_NAME} characters, and paths to {MAX_PATH:,}",
        )
    return plain_path(name)


def plain_path(name: str) -> str:
    """Return a path with `/` between its parts, and without empty parts and `.`."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def is_synset(name: str) -> bool:
    """Return whether a class name is a WordNet id, as ImageNet's classes have."""
    return _SYNSET.fullmatch(name) is not None


def is_placeholder(name: str) -> bool:
    """Return whether a class name is only a number, as nilr gives to classes without a name."""
    return _PLACEHOLDER.fullmatch(name) is not None


def is_unwanted_class(name: str, only: frozenset[str] | None) -> bool:
    """Return whether a folder or class tar is a synset outside `only` (None: all are wanted)."""
    return only is not None and name not in only and is_synset(name)


class ClassFolders:
    """Maps the class names of a file to names of folders.

    Args:
        path: the file, for errors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, str] = {}

    def find(self, name: str) -> str:
        """Return the folder of a class; DataError if another class has the same."""
        folder = unicodedata.normalize("NFC", re.sub(r"[/\\\0]|^\.{0,2}$", "_", name))
        if (other := self._names.setdefault(folder, name)) != name:
            what = f"`{self._path}` has classes {other!r} and {name!r}, which would get the same name"
            raise DataError(what, hint="rename one of them")
        return folder


def container_name(name: str) -> str:
    """Return an archive's name without its suffixes: `train.tar.gz` -> `train`."""
    return re.sub(rf"({_ARCHIVE_SUFFIX}|\.pkl|\.pickle|\.npz|\.npy|\.parquet)+$", "", name, flags=re.IGNORECASE) or name


def by_kind(reasons: Mapping[str, str]) -> str:
    """Describe each kind of reason by its first file: "`a.jpg` is truncated (and 6 more files); `b.7z` is ..."."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for path, reason in reasons.items():
        kinds[re.sub(r"\(.*\)|[\d,]+", "", reason)].append(path)
    return "; ".join(
        f"`{path}` {reasons[path]}" + (f" (and {counted(len(more), 'more file')})" if more else "")
        for path, *more in kinds.values()
    )
