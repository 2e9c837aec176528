"""Records that the results of several commands share."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat


class Record(BaseModel):
    """A result, or a part of one."""

    # a schema is built at its first use: a command uses few of them
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True, defer_build=True
    )


# "equivalent": an effect of at least the smallest effect of interest is excluded; "exploratory": not of the four signs
# under the default choice; "demonstration": on generated images, which decide nothing about the paper's claim
Finding = Literal["confirmed", "refuted", "undecided", "equivalent", "exploratory", "demonstration"]


class Mean(Record):
    """A mean over episodes; `ci95` is the half width of its 95 % interval, null for a single episode."""

    mean: FiniteFloat
    ci95: FiniteFloat | None
    n_episodes: int


class Delta(Record):
    """A paired difference over the same episodes: its mean, 95 % interval and paired t-test.

    `ci95` is the half width of the interval, `low` and `high` are its bounds. `d` is the mean divided by the standard
    deviation of the differences. `p_holm` is p adjusted for all differences of the protocols, or of the same section,
    in the result. With zero variance, `ci95` is 0, `p`, `p_holm` and `d` are null, and `verdict` is "exactly zero" or
    "exactly constant".
    """

    mean: FiniteFloat
    ci95: FiniteFloat | None
    p: FiniteFloat | None
    verdict: str | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    d: FiniteFloat | None = None
    p_holm: FiniteFloat | None = None


class DataUsed(Record):
    """A pack: its name in the store or its file name, its digest, and how its images were made.

    `n_classes` is the number of classes of its split; null in results of earlier versions.
    """

    name: str
    digest: str
    image_size: int
    split: str | None = None
    n_classes: int | None = None
    resample: str = "bilinear"
    fit: str = "stretch"
    channels: int = 3
    generated: bool | None = None  # whether nilr generated its images; None in results of earlier versions


class Reference(Record):
    """The model whose rates a training used, by `inner_lr_from` or `rate_norm_from`: SHA-256 of its tensors, recipe."""

    name: str
    digest: str
    recipe: str


class ModelUsed(Record):
    """A model: its name in the registry or its file name, its checkpoint, and the SHA-256 of its tensors.

    `recipe` is a digest of architecture, algorithm, pack and every setting that changes a number, except `seed`: models
    with the same recipe differ only in their seed, and in that of `reference`, the model whose rates the training used.
    `claimed`: whether the paper's signs are about such a model; null in results of earlier versions.
    """

    name: str
    checkpoint: str
    digest: str
    outer_step: int
    algo: str
    trained_on: str
    parent: str | None = None
    seed: int | None = None
    recipe: str | None = None
    claimed: bool | None = None
    reference: Reference | None = None


class ImageRef(Record):
    """One image of a pack."""

    split: str
    class_name: str = Field(alias="class")
    filename: str

    @classmethod
    def of(cls, where: tuple[str, str, str]) -> Self:
        """Return the reference to an image with this split, class and file name."""
        return cls(split=where[0], class_name=where[1], filename=where[2])

    def __str__(self) -> str:
        return f"{self.split}/{self.class_name}/{self.filename}"


class PackName(Record):
    """A pack: its name and content digest."""

    name: str
    digest: str


class SharedWith(Record):
    """What split `a` of one pack shares with split `b` of another: classes by name, and distinct images.

    `images` is null if the packs' images differ in size or channels, so that none can be equal.
    """

    a: str
    b: str
    classes: list[str]
    images: int | None


class Overlap(Record):
    """What two packs share, for each pair of their splits, and the first 100 pairs of images with identical pixels."""

    a: PackName
    b: PackName
    splits: list[SharedWith]
    pairs: list[tuple[ImageRef, ImageRef]]
