"""Pickled arrays, shown as the folders of images that they stand for: `<split>/<class>/<class>-<index>`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from nilr.data.sources.members import Listing, Member, Payload
from nilr.data.sources.pickles import read_pickle_arrays


class PickleReader:
    """Reads a pickle of images; one is in memory at a time.

    Args:
        path: the pickle.
        prefix: put before the path of each image.
    """

    kind = "pickle"

    def __init__(self, path: Path, prefix: str) -> None:
        self._path = path
        self._prefix = prefix

    def list_into(self, listing: Listing) -> None:
        """List every image.

        Raises:
            DataError: see `read_pickle_arrays`.
        """
        pickled = read_pickle_arrays(self._path)
        prefix = f"{self._prefix}/{pickled.split_hint}" if pickled.split_hint else self._prefix
        for name, images in pickled.classes.items():
            folder = name.replace("/", "_")
            for index, image in enumerate(images):
                path = f"{prefix}/{folder}/{folder}-{index:05d}"
                listing.images.append(Member(path, image.nbytes, self, (name, index)))

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        """Read some images, in the order given.

        Raises:
            DataError: see `read_pickle_arrays`.
        """
        classes = read_pickle_arrays(self._path).classes
        for member in members:
            name, index = member.where
            yield member, classes[name][index]
