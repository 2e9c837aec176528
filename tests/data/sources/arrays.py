"""Read files of arrays whole, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nilr.config.base import Split
from nilr.data.sources.array_files import ArrayFile, read_images
from nilr.data.sources.members import Listing, Member


class Classes(NamedTuple):
    split_hint: Split | None
    classes: dict[str, npt.NDArray[np.uint8]]


class _Content:
    """An archive with one file in it."""

    kind = "tar"

    def __init__(self, content: bytes) -> None:
        self._content = content

    def list_into(self, listing: Listing) -> None:
        raise NotImplementedError

    def fetch(self, members: list[Member]) -> list[tuple[Member, bytes]]:
        return [(member, self._content) for member in members]


def in_memory(path: Path, content: bytes | None = None) -> Member:
    """Return a file as the member of an archive."""
    content = path.read_bytes() if content is None else content
    return Member(str(path), len(content), _Content(content), None)  # type: ignore[arg-type]


def read_pickle_arrays(path: Path, content: bytes | None = None) -> Classes:
    """Return the classes of the first split of a file, given by its path or by its content."""
    inside = None if content is None else in_memory(path, content)
    found = read_images(ArrayFile(str(path), path, inside))[0]
    return Classes(found.split, {n: np.stack([*found.rows.read(i.tolist())]) for n, i in found.classes.items()})  # type: ignore[arg-type]
