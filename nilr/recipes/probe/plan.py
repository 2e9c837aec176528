"""What a probe reads of every episode, and where each figure stands in its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from nilr.config import PROTOCOLS, ProbeSettings
from nilr.errors import UnknownNameError, UsageError
from nilr.models.learner import layer, part
from nilr.probes.conditions import META_INIT, Condition, Reading
from nilr.probes.edits import LEARNED
from nilr.probes.neighbours import RULES
from nilr.probes.protocols import HeadAccuracy, NeighbourAccuracy, Similarity
from nilr.probes.similarity import BETWEEN, MEASURES, WITHIN
from nilr.recipes.common.episodes import edit_names, split_commas
from nilr.recipes.common.loading import LoadedModel

ACCURACY = "accuracy"
OWN_HEAD = "own_head"
SIMILARITY = "similarity"
ALL = "all"

Path = tuple[str, ...]


class Place(NamedTuple):
    """A figure: where it stands in a model's metrics, and what it is read of.

    Attributes:
        path: keys from the model's metrics down.
        condition: how the parameters come about.
        reading: the name of what is taken.
    """

    path: Path
    condition: Condition
    reading: str


@dataclass(frozen=True)
class Plan:
    """What is read of one model or control.

    Attributes:
        rates: the edits of the rates; the figures that stand first are those of the first one.
        readings: what is taken, by name. `ACCURACY` is the main one.
        places: every figure. What differences refer to is always among them: each accuracy at meta-init, and the main
            one with the learned rates. Of the own head's likewise.
    """

    rates: Sequence[str]
    readings: Mapping[str, Reading]
    places: Sequence[Place]

    def asked(self) -> dict[Condition, dict[str, Reading]]:
        """Return what is taken under each condition, those that end after fewer steps first."""
        asked: dict[Condition, dict[str, Reading]] = {}
        for place in sorted(self.places, key=lambda place: (place.condition.steps is None, place.condition.steps)):
            asked.setdefault(place.condition, {})[place.reading] = self.readings[place.reading]
        return asked

    def of_control(self, *, layers: bool) -> Plan:
        """Return what is read of a control, which does not adapt: accuracies, of layers only if it has them."""
        kept = {META_INIT.protocol, "neighbours", *(["layers"] if layers else [])}
        return replace(self, places=[p for p in self.places if p.condition == META_INIT and p.path[0] in kept])


def plan(settings: ProbeSettings, *, layers: Sequence[str], n_way: int, inner_steps: int) -> Plan:
    """Return what the settings ask to be read of a model.

    Args:
        settings: the probe's.
        layers: the layers to look at (see `asked_layers`).
        n_way: classes per episode.
        inner_steps: steps of the model's inner loop.
    """
    rates = tuple(dict.fromkeys([*edit_names(settings.rates), LEARNED]))
    main, *more = asked_rules(settings.neighbours)
    adapted = [p for p in PROTOCOLS if settings.protocol in (ALL, p) and p != META_INIT.protocol]
    own = {META_INIT.protocol: META_INIT} | {protocol: Condition(protocol, rates[0]) for protocol in adapted}
    readings: dict[str, Reading] = {ACCURACY: NeighbourAccuracy(main, settings.distance)}
    places = [Place((protocol,), condition, ACCURACY) for protocol, condition in own.items()]
    if len(rates) > 1:
        places += [Place(("edits", name, p), Condition(p, name), ACCURACY) for name in rates for p in adapted]
    if settings.own_head:
        readings[OWN_HEAD] = HeadAccuracy()
        places += _own_head(rates)
    if more:
        readings |= {rule: NeighbourAccuracy(rule, settings.distance) for rule in more}
        places += _table("neighbours", {main: ACCURACY, **{rule: rule for rule in more}}, own)
    if settings.layers:
        readings |= {name: NeighbourAccuracy(main, settings.distance, name) for name in layers}
        places += _table("layers", {name: name for name in layers}, own)
    if settings.similarity:
        readings |= {_similarity(name, m): Similarity(name, m) for name in layers for m in MEASURES}
        places += _similarities(layers, own)
    if settings.steps_curve:
        places += _steps(own, inner_steps)
    if settings.shared_classes:
        places += _shared(own["cross-task"], settings, n_way)
    return Plan(rates, readings, places)


def asked_rules(values: Sequence[str]) -> tuple[str, ...]:
    """Return the neighbour rules that --neighbours names, the main one first.

    Raises:
        UnknownNameError: there is no such rule.
    """
    return tuple(_known("neighbour rule", name, RULES) for name in split_commas(values))


def asked_layers(settings: ProbeSettings, model: LoadedModel) -> tuple[str, ...]:
    """Return the layers of the model's body that --layers names, in its own order; all where --similarity stands alone.

    Raises:
        UnknownNameError: it has no such layer.
    """
    known = tuple(dict.fromkeys(layer(name) for name, _ in model.learner.named_parameters() if part(name) == "body"))
    names = [_known("layer", name, [ALL, *known]) for name in split_commas(settings.layers)]
    everything = ALL in names or (settings.similarity and not names)
    return tuple(name for name in known if everything or name in names)


def check_request(settings: ProbeSettings) -> None:
    """Check what can be checked before a model is opened.

    Raises:
        UsageError: the settings contradict one another, or name what nilr does not know.
    """
    edit_names(settings.rates)
    asked_rules(settings.neighbours)
    adapts = settings.protocol != META_INIT.protocol
    if settings.until_ci is not None and not adapts:
        raise UsageError("--until-ci is about differences, and meta-init has none", hint="leave --protocol out")
    if settings.steps_curve and not adapts:
        raise UsageError("--steps-curve is about adaptation, and meta-init has none", hint="leave --protocol out")
    if settings.own_head and settings.protocol not in (ALL, "same-task"):
        raise UsageError(f"--own-head is about same-task, not {settings.protocol}", hint="leave --protocol out")
    if settings.shared_classes and settings.protocol not in (ALL, "cross-task"):
        raise UsageError(f"--shared-classes is about cross-task, not {settings.protocol}", hint="leave --protocol out")
    if settings.data_b is not None and (settings.shared_classes or settings.task_b == "same-classes"):
        asked = "--shared-classes" if settings.shared_classes else "--task-b same-classes"
        raise UsageError(
            f"the classes of --data-b are other ones, so {asked} cannot be had", hint="leave one of them out"
        )


def _table(section: str, readings: Mapping[str, str], own: Mapping[str, Condition]) -> Iterator[Place]:
    """Yield the places of accuracies by row and protocol; `readings` has the name of each row's reading."""
    for row, reading in readings.items():
        for protocol, condition in own.items():
            yield Place((section, row, protocol), condition, reading)


def _own_head(rates: Sequence[str]) -> Iterator[Place]:
    """Yield the places of the own head's accuracies. It knows the classes that it adapted to, so never cross-task."""
    for name in rates:
        for condition in (META_INIT, Condition("same-task", name)):
            yield Place((OWN_HEAD, name, condition.protocol), condition, OWN_HEAD)


def _similarities(layers: Sequence[str], own: Mapping[str, Condition]) -> Iterator[Place]:
    for protocol, condition in own.items():
        measures = WITHIN if condition == META_INIT else BETWEEN | WITHIN
        for name in layers:
            for measure in measures:
                yield Place((SIMILARITY, protocol, name, measure), condition, _similarity(name, measure))


def _similarity(layer: str, measure: str) -> str:
    return f"{layer} {measure}"


def _steps(own: Mapping[str, Condition], inner_steps: int) -> Iterator[Place]:
    """Yield the places of the accuracies after 0 to k steps; those after none and after all k are read anyway."""
    for steps in range(inner_steps + 1):
        for protocol, condition in own.items():
            if condition != META_INIT:
                known = {inner_steps: condition, 0: META_INIT}
                yield Place(
                    ("steps", str(steps), protocol), known.get(steps, replace(condition, steps=steps)), ACCURACY
                )


def _shared(cross: Condition, settings: ProbeSettings, n_way: int) -> Iterator[Place]:
    """Yield the places of the accuracies when A shares 0 to N classes with B; what --task-b asks for is read anyway."""
    drawn_anyway = {"disjoint": 0, "same-classes": n_way}.get(settings.task_b)
    for shared in range(n_way + 1):
        condition = cross if shared == drawn_anyway else replace(cross, shared=shared)
        yield Place(("shared_classes", f"{shared / n_way:.4g}", "cross-task"), condition, ACCURACY)


def _known(kind: str, name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    if name not in known:
        raise UnknownNameError(kind, name, known)
    return name
