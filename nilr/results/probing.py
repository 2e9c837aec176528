"""What `probe` and `rates` measure."""

from __future__ import annotations

from pydantic import Field, FiniteFloat, SerializerFunctionWrapHandler, model_serializer

from nilr.results.records import Delta, Mean, Record


class ProtocolMetrics(Record):
    """Accuracy under one protocol; `delta` is paired to meta-init on the same judged episodes."""

    accuracy: Mean
    delta: Delta | None = None


class EditMetrics(ProtocolMetrics):
    """The same under an edit of the rates; `delta_to_learned` is paired to the rates as they were learned."""

    delta_to_learned: Delta | None = None


class EditProbe(Record):
    """One model under one edit of its rates, under each protocol that adapts."""

    same_task: EditMetrics | None = Field(default=None, alias="same-task")
    cross_task: EditMetrics | None = Field(default=None, alias="cross-task")


class HeadProbe(Record):
    """The model's own head before and after adapting to the judged task, under one edit of its rates."""

    meta_init: ProtocolMetrics = Field(alias="meta-init")
    same_task: EditMetrics = Field(alias="same-task")


class Row(Record):
    """Accuracy under each protocol that was asked for, of one choice out of several; deltas are within the row."""

    meta_init: ProtocolMetrics | None = Field(default=None, alias="meta-init")
    same_task: ProtocolMetrics | None = Field(default=None, alias="same-task")
    cross_task: ProtocolMetrics | None = Field(default=None, alias="cross-task")


class ModelProbe(Record):
    """One model under each protocol that was asked for; meta-init always stands, since deltas refer to it.

    The protocols' own figures are those of the first `rates` asked for. Where they were asked for, and else not in a
    result file at all, stand, all but the first with the first `rates`:

    - `edits`: by edited rates, and always those of `learned`, which deltas refer to.
    - `own_head`: of the model's own head instead of neighbours, by edited rates, and always those of `learned`.
    - `neighbours`: by rule, where there are several; the protocols' own figures are those of the first.
    - `layers`: by layer, of its flattened output.
    - `steps`: by number of inner steps taken.
    - `shared_classes`: by the share of the judged classes that cross-task adapted to.
    - `similarity`: by protocol, layer and measure, of the judged episode's query images; `cka`, `svcca` and `cosine`
      compare before with after, `within-class-cosine` and `between-class-cosine` compare images after. Null where it
      is undefined in every episode; `n_episodes` counts those where it is defined.
    """

    meta_init: ProtocolMetrics = Field(alias="meta-init")
    same_task: ProtocolMetrics | None = Field(default=None, alias="same-task")
    cross_task: ProtocolMetrics | None = Field(default=None, alias="cross-task")
    edits: dict[str, EditProbe] = Field(default_factory=dict)
    own_head: dict[str, HeadProbe] = Field(default_factory=dict)
    neighbours: dict[str, Row] = Field(default_factory=dict)
    layers: dict[str, Row] = Field(default_factory=dict)
    steps: dict[str, Row] = Field(default_factory=dict)
    shared_classes: dict[str, Row] = Field(default_factory=dict)
    similarity: dict[str, dict[str, dict[str, Mean | None]]] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_what_was_not_asked_for(self, serialize: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]  # noqa: ANN202 - with a return type, the JSON Schema would be that type's
        return {name: value for name, value in serialize(self).items() if value != {}}


ProbeMetrics = dict[str, ModelProbe]


class Histogram(Record):
    """Counts between ascending edges, equally far apart; no bin holds numbers of both signs."""

    edges: list[FiniteFloat]
    counts: list[int]


class RateFigures(Record):
    """The inner rates of some tensors, taken together.

    Count to histogram are exact: these are all the rates there are. `ascent` is the share of sum |a| g^2 where the rate
    a is negative; `step_norm` the norm of the step a*g, and `cosine` that of the angle between a*g and the gradient g,
    both means over the inner steps. The three are means over episodes; null where there were none, or where nothing is
    defined in any.
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


class ModelRates(Record):
    """The inner rates of one model: all, by kind of parameter, by layer and by tensor.

    `left_out` names tensors that have rates and receive no signal, `not_moved` those that have none; neither counts.
    """

    inner_steps: int
    all: RateFigures
    kinds: dict[str, RateFigures]
    layers: dict[str, RateFigures]
    tensors: dict[str, TensorRates]
    left_out: list[str]
    not_moved: list[str]


RatesMetrics = dict[str, ModelRates]
