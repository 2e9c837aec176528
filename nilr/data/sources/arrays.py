"""Pickled arrays, shown as the folders of images that they stand for: `<split>/<class>/<class>-<index>`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from nilr.data.sources.members import Listing, Member, Payload, Unreadable
from nilr.data.sources.pickles import PickleImages, read_pickle_arrays
from nilr.errors import DataError

# The largest that went round has 813 MB.
_MAX_BYTES: Final = 2**30


class PickleReader:
    """Reads a pickle of images; one is in memory at a time.

    Args:
        path: the pickle; with `inside` only its name.
        prefix: put before the path of each image.
        inside: the member of an archive that it is.
    """

    kind = "pickle"

    def __init__(self, path: Path, prefix: str, inside: Member | None = None) -> None:
        self._path = path
        self._prefix = prefix
        self._inside = inside

    def list_into(self, listing: Listing) -> None:
        """List every image.

        Raises:
            DataError: see `read_pickle_arrays`.
        """
        pickled = self._read()
        prefix = f"{self._prefix}/{pickled.split_hint}" if pickled.split_hint else self._prefix
        names: dict[str, str] = {}
        for name, images in pickled.classes.items():
            folder = name.replace("/", "_")
            if (other := names.setdefault(folder, name)) != name:
                raise DataError(
                    f"`{self._path}` has classes {other!r} and {name!r}, which would be one", hint="rename one of them"
                )
            for index, image in enumerate(images):
                path = f"{prefix}/{folder}/{folder}-{index:05d}"
                listing.images.append(Member(path, image.nbytes, self, (name, index)))

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some images, in the order given.

        Raises:
            DataError: see `read_pickle_arrays`.
        """
        classes = self._read().classes
        for member in members:
            name, index = member.where
            yield member, classes[name][index]

    def _read(self) -> PickleImages:
        if self._inside is None:
            return read_pickle_arrays(self._path)
        if self._inside.size > _MAX_BYTES:
            raise DataError(
                f"`{self._path}` has {self._inside.size:,} bytes, more than a pickle in an archive may: {_MAX_BYTES:,}",
                hint="take it out of the archive and give it itself",
            )
        _, content = next(iter(self._inside.reader.fetch([self._inside])))
        if not isinstance(content, bytes):
            reason = content.reason if isinstance(content, Unreadable) else "is not a file"
            raise DataError(f"`{self._path}` {reason}", hint="get the archive again")
        return read_pickle_arrays(self._path, content)
