"""What the results of several commands are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, FiniteFloat


class Record(BaseModel):
    """A part of a result."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Mean(Record):
    """A mean over episodes; `ci95` is the half width of its 95 % interval, null for one episode."""

    mean: FiniteFloat
    ci95: FiniteFloat | None
    n_episodes: int


class Delta(Record):
    """A paired difference over the same episodes: its mean, 95 % interval and paired t-test.

    `ci95` is half the interval's width, `low` and `high` its bounds; `d` the mean over the standard deviation of the
    differences; `p_holm` is p adjusted for the number of differences in this result. With zero variance ci95 is 0, p,
    p_holm and d null, and verdict "exactly zero" or "exactly constant".
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
    """The pack: its registry name or base name, and digest."""

    name: str
    digest: str
    image_size: int
    split: str | None = None


class ModelUsed(Record):
    """A model file: the registry name or base name, which checkpoint, and the SHA-256 of its tensors.

    Models with one `recipe` were trained alike but for their `seed`: it is a digest of architecture, algorithm, pack
    and every setting that changes a number.
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
