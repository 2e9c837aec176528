"""What `nilr calibrate` compares: published accuracies, and a model evaluated in the same way."""

from typing import Literal

from pydantic import Field, FiniteFloat

from nilr.config.base import BatchStats
from nilr.results.records import Mean, Record


class Anchor(Record):
    """A published accuracy, and how it was obtained; null where that was not reported.

    `accuracy` is that of the network's own head after adaptation, or of neighbours' votes (`attention`) on its features
    before adaptation. Rates are as published: some losses are sums over images, others means. `reported_by` says where
    the figure was read; one from memory was not checked at its source. `body_differs` says what of the network differs
    from nilr's body of that name.
    """

    source: str
    reported_by: Literal["paper", "repository", "memory"]
    algorithm: str
    body: str
    filters: int | None
    widths: list[int] | None = None
    body_differs: str | None = None
    dataset: str
    image_size: int
    n_way: int = 5
    n_shot: int
    measured: Literal["head", "features"] = "head"
    accuracy: FiniteFloat
    ci95: FiniteFloat | None
    inner_steps: int | None = None
    eval_inner_steps: int | None = None
    inner_lr: str | None = None
    outer_lr: FiniteFloat | None = None
    meta_batch_size: int | None = None
    outer_steps: int | None = None
    n_query: int | None = None
    batch_stats: BatchStats | None = None
    n_episodes: int | None = None
    pretrained: bool = False
    ensemble: bool = False
    remarks: str | None = None

    @property
    def network(self) -> str:
        """The body with its number of filters."""
        return self.body if self.filters is None else f"{self.body}-{self.filters}"


class Judging(Record):
    """How a model is evaluated for an anchor; `inner_steps` is null for features, which are not adapted.

    `assumed` names what the source does not report.
    """

    measured: Literal["head", "features"]
    n_query: int
    inner_steps: int | None
    batch_stats: BatchStats
    assumed: list[str] = Field(default_factory=list)


class Judged(Record):
    """A model beside one anchor: `difference` is the model's accuracy minus the published one.

    The verdict is "within" if the difference is at most `band`, the square root of the sum of the squares of both 95 %
    half widths. An anchor without an interval has a half width of one point.
    """

    anchor: Anchor
    judging: Judging
    accuracy: Mean
    difference: FiniteFloat
    band: FiniteFloat
    verdict: Literal["within", "above", "below"]


class NotComparable(Record):
    """An anchor of the same algorithm, body, dataset, ways and shots that differs from the model in something else."""

    anchor: Anchor
    reasons: list[str]


class ModelCalibration(Record):
    """One model beside the anchors of its algorithm, body, dataset, ways and shots."""

    judged: list[Judged]
    not_comparable: list[NotComparable]


class CalibrateMetrics(Record):
    """`nilr calibrate`: by model; with `--list` all anchors instead."""

    models: dict[str, ModelCalibration] = Field(default_factory=dict)
    anchors: list[Anchor] = Field(default_factory=list)
