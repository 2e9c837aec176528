"""Sections with a row of accuracies by protocol for each of several choices: layers, neighbours, steps, classes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from nilr.config.base import ADAPTED
from nilr.probes.conditions import META_INIT, Condition, Quantity
from nilr.probes.linear_classifiers import CLASSIFIERS
from nilr.probes.readings import LinearAccuracy
from nilr.results.probe import ModelProbe, ProbeMetrics, ProtocolMetrics, Row
from nilr.results.records import Mean
from nilr.sections.curves import LAYERS_KIND, SHARED_KIND, STEPS_KIND
from nilr.sections.section import Cell, Format, Request, Section, Table, table_of
from nilr.sections.universality_figure import KIND as UNIVERSALITY_KIND
from nilr.sections.values import Values

Rows = dict[str, dict[str, Quantity]]
"""Quantities by choice and protocol."""


def _layers(request: Request) -> Rows:
    """Evaluate the flattened output of each layer."""
    return {layer: request.accuracies(layer=layer) for layer in request.layers}


def _neighbours(request: Request) -> Rows:
    """Evaluate the same features with several rules of labelled neighbours; nothing if there is only one rule."""
    if len(request.rules) == 1:
        return {}
    return {rule: request.accuracies(rule=rule) for rule in request.rules}


def _steps(request: Request) -> Rows:
    """Evaluate after every number of inner steps."""

    def after(steps: int, condition: Condition) -> Condition:
        # No steps and all steps are conditions that the probe evaluates anyway.
        return {request.inner_steps: condition, 0: META_INIT}.get(steps, replace(condition, steps=steps))

    adapted = {p: condition for p, condition in request.conditions.items() if condition != META_INIT}
    return {
        str(steps): {p: request.accuracy(after(steps, condition)) for p, condition in adapted.items()}
        for steps in range(request.inner_steps + 1)
    }


def _shared_classes(request: Request) -> Rows:
    """Evaluate cross-task by the share of the evaluated classes that episode A has too, for 0 to N of them."""
    cross = request.conditions["cross-task"]
    # The probe evaluates what --task-b requests anyway.
    known = {"disjoint": 0, "same-classes": request.n_way}.get(request.settings.task_b)
    return {
        f"{shared / request.n_way:.4g}": {
            "cross-task": request.accuracy(cross if shared == known else replace(cross, shared=shared))
        }
        for shared in range(request.n_way + 1)
    }


def _universality(request: Request) -> Rows:
    """Evaluate linear classifiers of all classes of a split."""
    conditions = {p: c for p, c in request.conditions.items() if p != "same-task"}
    return {name: {p: Quantity(c, LinearAccuracy(name)) for p, c in conditions.items()} for name in CLASSIFIERS}


def _build(row: Mapping[str, Quantity], values: Values) -> Row:
    """Return the accuracies of one choice."""
    return Row.model_validate({protocol: values.accuracy(quantity) for protocol, quantity in row.items()})


def _table(field: str, title: str) -> Callable[[ProbeMetrics, Format], Table | None]:
    """Return what makes the table of a field of `ModelProbe`; `title` is that of the column of choices."""

    def cells(model: ModelProbe, text: Format) -> Iterator[Sequence[Cell]]:
        for choice, row in getattr(model, field).items():
            before = text.mean((row.meta_init or model.meta_init).accuracy)
            yield choice, before, _change(row.same_task, text), _change(row.cross_task, text)

    return table_of((title, "meta-init", "same-task delta", "cross-task delta"), cells)


def _change(found: ProtocolMetrics | None, text: Format) -> Cell:
    """Return the difference to meta-init; zero after no step, where there is no `delta`."""
    return None if found is None else text.delta(found.delta or Mean(mean=0.0, ci95=None, n_episodes=0))


LAYERS = Section("layers", "layers", _layers, _build, _table("layers", "layer"), LAYERS_KIND, of_controls=True)
NEIGHBOURS = Section(
    "neighbours", "neighbours", _neighbours, _build, _table("neighbours", "neighbours"), of_controls=True
)
STEPS = Section("steps", "steps_curve", _steps, _build, _table("steps", "inner steps"), STEPS_KIND, ADAPTED)
SHARED_CLASSES = Section(
    "shared_classes",
    "shared_classes",
    _shared_classes,
    _build,
    _table("shared_classes", "shared classes"),
    SHARED_KIND,
    protocols=("cross-task",),
)
UNIVERSALITY = Section(
    "universality",
    "universality",
    _universality,
    _build,
    _table("universality", "linear classifier"),
    UNIVERSALITY_KIND,
    protocols=("cross-task",),
    of_controls=True,
)
