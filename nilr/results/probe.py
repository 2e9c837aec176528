"""What `nilr probe` and `nilr rates` measure."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from nilr.results.records import Delta, Finding, Mean, Record


def _check_number(text: str) -> str:
    if not math.isfinite(float(text)):
        raise ValueError("not a finite number")
    return text


Number = Annotated[str, AfterValidator(_check_number)]


class ProtocolMetrics(Record):
    """Accuracy under one protocol; `delta` is its difference to meta-init on the same episodes."""

    accuracy: Mean
    delta: Delta | None = None


class EditMetrics(ProtocolMetrics):
    """Accuracy with edited rates; `delta_to_learned` is its difference to the learned rates on the same episodes."""

    delta_to_learned: Delta | None = None


class EditProbe(Record):
    """Accuracy with one edit of the rates, under each protocol that adapts."""

    same_task: EditMetrics | None = Field(default=None, alias="same-task")
    cross_task: EditMetrics | None = Field(default=None, alias="cross-task")


class HeadProbe(Record):
    """Accuracy of the model's own head, before and after it adapts with one edit of the rates."""

    meta_init: ProtocolMetrics = Field(alias="meta-init")
    same_task: EditMetrics = Field(alias="same-task")


class PermutationProbe(Record):
    """Accuracy over permutations of the labels: of each episode their mean, sample standard deviation, best and worst.

    Each figure is the mean over episodes.
    """

    mean: Mean
    spread: Mean
    best: Mean
    worst: Mean


class EpisodeShare(Record):
    """The share of episodes with one outcome of adaptation, the share by chance, and the difference of both.

    By chance, each query that changes turns to right or to wrong with probability 1/2.
    """

    share: Mean
    chance: Mean
    excess: Mean


class HarmProbe(Record):
    """Episodes whose accuracy adaptation lowers (`harmed`), raises (`helped`) or leaves equal (`unchanged`).

    `turned-right` and `turned-wrong` are numbers of queries per episode that only adaptation classifies correctly, or
    wrongly.
    """

    turned_right: Mean = Field(alias="turned-right")
    turned_wrong: Mean = Field(alias="turned-wrong")
    harmed: EpisodeShare
    helped: EpisodeShare
    unchanged: EpisodeShare


class Row(Record):
    """Accuracy under each requested protocol, for one of several choices; differences are within the row."""

    meta_init: ProtocolMetrics | None = Field(default=None, alias="meta-init")
    same_task: ProtocolMetrics | None = Field(default=None, alias="same-task")
    cross_task: ProtocolMetrics | None = Field(default=None, alias="cross-task")


class GeometryProbe(Record):
    """A measure of the classes of the query images, and its paired difference to meta-init; null if undefined."""

    value: Mean | None
    difference: Mean | None = None


class LossParts(Record):
    """The change of the query loss that its gradient predicts, in nats: of all steps, and of the rates of each sign."""

    predicted: Mean
    predicted_positive: Mean
    predicted_negative: Mean


class TransferProbe(LossParts):
    """How adaptation changes the query loss of the model's head; `actual` is the change after adaptation.

    `parts` has the prediction of the body, of each layer and of the head; `predicted` itself is that of all elements.
    """

    actual: Mean
    parts: dict[str, LossParts] = Field(default_factory=dict)


class DirectionProbe(Record):
    """Accuracy after displacements of one part of the network from the meta-initialisation.

    `learned` is the displacement d of adaptation, `negative` is -d, `twice` is 2 d; `random-signs` has the size of each
    element of d, `gaussian` the norm of each tensor. The effect of d is the sum of `odd`, half the difference of the
    accuracies after d and after -d, and `even`, the mean of both minus the accuracy at the meta-initialisation.
    """

    learned: ProtocolMetrics
    negative: ProtocolMetrics
    twice: ProtocolMetrics | None = None
    random_signs: ProtocolMetrics = Field(alias="random-signs")
    gaussian: ProtocolMetrics | None = None
    odd: Delta
    even: Delta


class OverBodies(Record):
    """Accuracy of untrained bodies: the mean over bodies, and half the width of its 95 % t interval over bodies.

    `bodies` has each body's mean over episodes. All bodies evaluate the same episodes.
    """

    mean: FiniteFloat
    ci95: FiniteFloat | None
    bodies: list[FiniteFloat]


class ProbeSign(Record):
    """The sign that the paper claims of a difference to meta-init, and the finding over the episodes of the probe."""

    claimed: Literal[1, -1]
    finding: Finding


class ModelProbe(Record):
    """One model under each requested protocol, and under meta-init, which differences refer to.

    `signs` has by protocol what the paper claims of the model; it is absent where the paper claims nothing.

    All fields except `edits` and `own_head` use the first value of `--rates`. The following sections are present only
    if requested:

    - `edits`: by edit of the rates; `learned` is always included.
    - `own_head`: the model's own head instead of neighbours, by edit of the rates; `learned` is always included.
    - `directions`: by protocol and part of the network, `body` first; the first value of `--neighbours`.
    - `permutations`: by protocol, and by `neighbours` (the first value of `--neighbours`) and `own-head`.
    - `harm`: by protocol; the first value of `--neighbours`.
    - `neighbours`: by rule; the protocols themselves use the first rule.
    - `layers`: by layer, on its flattened output.
    - `steps`: by number of inner steps.
    - `shared_classes`: cross-task, by the share of the evaluated classes that the model adapted to.
    - `universality`: by linear classifier of all classes of a split, `ridge` or `logistic`, before and after adaptation
      to other tasks; means and differences are over these tasks.
    - `similarity`: by protocol, layer and measure, on the query images. `cka`, `svcca` and `cosine` compare outputs
      before and after adaptation; `within-class-cosine` and `between-class-cosine` compare images after it. Null if
      undefined in every episode; `n_episodes` counts those in which it is defined.
    - `geometry`: by measure and protocol, on the features of the query images: `inverse-cdnv`, the same along the line
      between two class means (`inverse-directional-cdnv`), and `hyperplane-variation`.
    - `transfer`: by protocol, the change of the query loss to first order, by sign of the rates, and in fact.
    - `over_bodies`: of the control `untrained body`, by rule of neighbours. All its other values, also of each episode,
      are means over bodies.
    """

    meta_init: ProtocolMetrics = Field(alias="meta-init")
    same_task: ProtocolMetrics | None = Field(default=None, alias="same-task")
    cross_task: ProtocolMetrics | None = Field(default=None, alias="cross-task")
    signs: dict[str, ProbeSign] = Field(default_factory=dict)
    edits: dict[str, EditProbe] = Field(default_factory=dict)
    own_head: dict[str, HeadProbe] = Field(default_factory=dict)
    directions: dict[str, dict[str, DirectionProbe]] = Field(default_factory=dict)
    permutations: dict[str, dict[str, PermutationProbe]] = Field(default_factory=dict)
    harm: dict[str, HarmProbe] = Field(default_factory=dict)
    neighbours: dict[str, Row] = Field(default_factory=dict)
    layers: dict[str, Row] = Field(default_factory=dict)
    steps: dict[Number, Row] = Field(default_factory=dict)
    shared_classes: dict[Number, Row] = Field(default_factory=dict)
    universality: dict[str, Row] = Field(default_factory=dict)
    similarity: dict[str, dict[str, dict[str, Mean | None]]] = Field(default_factory=dict)
    geometry: dict[str, dict[str, GeometryProbe]] = Field(default_factory=dict)
    transfer: dict[str, TransferProbe] = Field(default_factory=dict)
    over_bodies: dict[str, OverBodies] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _omit_empty_sections(self, serialize: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a return type would replace the type in the JSON Schema
        return {name: value for name, value in serialize(self).items() if value != {}}


ProbeMetrics = dict[str, ModelProbe]


class Histogram(Record):
    """Counts between equally spaced edges; no bin has numbers of both signs."""

    edges: list[FiniteFloat]
    counts: list[int]

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.counts)} counts need {len(self.counts) + 1} edges, not {len(self.edges)}")
        return self


class RateFigures(Record):
    """The inner rates of some tensors, taken together.

    `count` to `histogram` are exact, because they cover all rates. The other three are means over episodes, for rates a
    and gradients g: `ascent` is the share of sum |a| g^2 with negative a, `step_norm` the norm of the step a*g, and
    `cosine` that of the angle between a*g and g. Both last ones are means over the inner steps. Null without episodes,
    or if undefined in every episode.
    """

    count: int
    mean: FiniteFloat
    std: FiniteFloat
    quantiles: dict[str, FiniteFloat]
    share_negative: FiniteFloat
    histogram: Histogram
    ascent: Mean | None = None
    step_norm: Mean | None = None
    cosine: Mean | None = None


class TensorRates(RateFigures):
    """The inner rates of one tensor; `no_signal` counts its elements whose gradient is zero in every episode."""

    layer: str
    kind: str
    no_signal: int | None = None


class SignConsistency(Record):
    """The consistency c = |mean g| / sqrt(mean g^2) of the gradients g of elements with rates of one sign.

    `consistency` is the mean of c over elements. `shared` is that of c^2 without its bias, 0 on average if nothing is
    shared by episodes and 1 if g is the same in all.
    """

    consistency: Mean
    shared: Mean


class Consistency(Record):
    """How the learned rates a of some elements depend on the consistency c of their gradients over episodes.

    `difference` is `shared` of negative rates minus that of positive ones, `rank_size` and `rank_rate` are Spearman's
    correlation of c with |a| and with a. Null if undefined. Intervals are by a jackknife over blocks of episodes.
    """

    positive: SignConsistency | None = None
    negative: SignConsistency | None = None
    difference: Mean | None = None
    rank_size: Mean | None = None
    rank_rate: Mean | None = None


class EffectiveStep(Record):
    """The support loss along the first inner step d, with gradient g and Hessian H.

    `slope` is the mean of g'd, `curvature` that of d'Hd, and `ratio` is -curvature / slope, with an interval by a
    jackknife: 1 if the step ends at the minimum along it of the mean quadratic model, 2 if that model gains nothing.
    `overshoots` is the share of episodes in which the quadratic model rises.
    """

    slope: Mean
    curvature: Mean
    ratio: Mean | None
    overshoots: Mean


class ModelRates(Record):
    """The inner rates of one model: all of them, and by kind of parameter, layer and tensor.

    `left_out` lists tensors with rates but without any gradient, `not_moved` tensors without rates. No other field
    includes them. Present only if requested: `consistency` of the first step's gradients, of `all` and by layer, with
    `consistency_by_chance`, the mean c of Gaussian gradients of mean zero; and `effective_step`.
    """

    inner_steps: int
    all: RateFigures
    kinds: dict[str, RateFigures]
    layers: dict[str, RateFigures]
    tensors: dict[str, TensorRates]
    left_out: list[str]
    not_moved: list[str]
    consistency: dict[str, Consistency] | None = None
    consistency_by_chance: FiniteFloat | None = None
    effective_step: EffectiveStep | None = None

    @property
    def sections(self) -> dict[str, Mapping[str, RateFigures]]:
        """The figures by field and name: of all rates together, and by kind, layer and tensor."""
        return {"all": {"all": self.all}, "kinds": self.kinds, "layers": self.layers, "tensors": self.tensors}


RatesMetrics = dict[str, ModelRates]
