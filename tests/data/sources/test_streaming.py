from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from nilr.data.sources.members import Listing, Member, Payload, Unreadable
from nilr.data.sources.streaming import DecodedClass, decode_classes
from nilr.errors import DataError

SIZE = 8


class Scattered:
    """Gives its members in an order of its own; each image is filled with its number."""

    kind = "made up"

    def __init__(self, *, fails_after: int | None = None) -> None:
        self._fails_after = fails_after

    def list_into(self, listing: Listing) -> None:
        raise NotImplementedError

    def fetch(self, members: Iterable[Member]) -> Iterator[tuple[Member, Payload]]:
        order = list(members)
        random.Random(0).shuffle(order)
        for n, member in enumerate(order):
            if n == self._fails_after:
                raise DataError("the source is gone")
            broken = member.where % 100 == 99
            yield member, Unreadable("is bad") if broken else np.full((SIZE, SIZE, 3), member.where % 251, np.uint8)


def made(splits: dict[str, dict[str, list[Member]]], advanced: list[int], workers: int = 2) -> Iterator[DecodedClass]:
    return decode_classes(  # type: ignore[arg-type]
        splits,
        image_size=SIZE,
        resample="bilinear",
        fit="stretch",
        channels=3,
        workers=workers,
        advance=advanced.append,
    )


def classes_of(reader: Scattered, sizes: Iterable[int]) -> dict[str, list[Member]]:
    numbers = iter(range(10_000))
    return {
        f"c{c}": [Member(f"s/c{c}/{i}.png", 1, reader, next(numbers)) for i in range(size)]
        for c, size in enumerate(sizes)
    }


@pytest.mark.parametrize("workers", [1, 3])
def test_images_in_any_order_get_to_their_class_and_place(workers: int) -> None:
    classes = classes_of(Scattered(), (300, 1, 64, 65))
    advanced: list[int] = []
    decoded = {c.name: c for c in made({"train": classes}, advanced, workers)}
    assert decoded.keys() == classes.keys()
    assert sum(advanced) == 430
    for name, members in classes.items():
        good = [member for member in members if member.where % 100 != 99]
        found = [(filename, image[0, 0, 0]) for filename, image, _ in decoded[name].images]
        assert found == [(member.filename, member.where % 251) for member in good]
        assert decoded[name].broken == {m.path: "is bad" for m in members if m.where % 100 == 99}


def test_an_error_of_a_source_is_raised() -> None:
    with pytest.raises(DataError, match="the source is gone"):
        list(made({"train": classes_of(Scattered(fails_after=200), (300,))}, []))


def test_an_image_of_too_many_bytes_is_not_read() -> None:
    member = Member("s/c/huge.png", 2**40, Scattered(fails_after=0), 0)
    (decoded,) = made({"train": {"c": [member]}}, [])
    assert decoded.broken == {"s/c/huge.png": "has 1,099,511,627,776 bytes, more than the limit of 268,435,456"}
    assert len(decoded.images) == 0
