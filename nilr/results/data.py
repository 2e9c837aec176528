"""Results of the commands about packs: `nilr data`."""

from nilr.results.records import Record


class PackRow(Record):
    """One pack in a list; a value that an unreadable pack does not show is null.

    Attributes:
        classes: number of classes of each split.
        images: number of images of each split.
        bytes: size of its file.
        created_at: ISO 8601, UTC.
        problem: why it is unreadable.
    """

    name: str
    bytes: int
    classes: dict[str, int] | None = None
    images: dict[str, int] | None = None
    image_size: int | None = None
    channels: int | None = None
    created_at: str | None = None
    digest: str | None = None
    problem: str | None = None


class SplitCard(Record):
    """A split: its digest, and the number of images of each class by name."""

    digest: str
    images: int
    classes: dict[str, int]


class PackCard(Record):
    """`nilr data show`: what a pack contains.

    Attributes:
        name: the data set's name.
        source: kind of the source, such as `class folders in tar`.
        digest: content digest.
        pictures: names of the written files.
    """

    name: str
    source: str
    licence: str
    created_at: str
    digest: str
    image_size: int
    channels: int
    resample: str
    fit: str
    bytes: int
    splits: dict[str, SplitCard]
    pictures: list[str]


class PackCheck(Record):
    """One pack, and its problem, if any."""

    pack: str
    problem: str | None = None


PackRows = list[PackRow]
PackChecks = list[PackCheck]
