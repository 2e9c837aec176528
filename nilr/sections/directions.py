"""`directions`: is it the direction of adaptation that matters, or its size?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from nilr.config.base import ADAPTED
from nilr.probes.conditions import META_INIT, Quantity
from nilr.probes.directions import DIRECTIONS, LEARNED, NEGATIVE, RANDOM_SIGNS, Displacement
from nilr.report.figures.figure import (
    Kind,
    Material,
    Style,
    Table,
    draw_estimate,
    label_lowest,
    name_rows,
    style_legend,
)
from nilr.report.figures.seeds import by_recipe, combined
from nilr.report.numbers import Estimate, bounds, joined, points
from nilr.report.style import Axes, Figure, Frame, colour
from nilr.results.probe import DirectionProbe, ModelProbe
from nilr.results.records import Delta
from nilr.sections.section import Cell, Format, Request, Section, table_of
from nilr.sections.values import Values
from nilr.words import counted

Parts = dict[str, dict[str, Quantity]]
"""Quantities by part of the network and direction."""

_ROUNDING = 1e-12
_WHOLE = "body"  # the head does not change the features
_OF_A_LAYER = (LEARNED, NEGATIVE, RANDOM_SIGNS)


def _plan(request: Request) -> dict[str, Parts]:
    """Return by protocol: every direction of the body, and the most important ones of each layer that moves.

    Nothing if the body does not move.
    """

    def accuracy(protocol: str, part: str, direction: str) -> Quantity:
        plain = request.conditions[protocol]
        # The probe evaluates the learned displacement of the whole body anyway.
        known = part == _WHOLE and direction == LEARNED
        return request.accuracy(plain if known else replace(plain, displacement=Displacement(direction, part)))

    if not set(request.moved) - {"head"}:
        return {}
    moved = [layer for layer in request.layers if layer in request.moved]
    directions = {_WHOLE: tuple(DIRECTIONS)} | dict.fromkeys(moved, _OF_A_LAYER)
    return {
        protocol: {part: {name: accuracy(protocol, part, name) for name in names} for part, names in directions.items()}
        for protocol in request.adapted
    }


def _build(parts: Parts, values: Values) -> dict[str, DirectionProbe]:
    return {part: _split(entry, values) for part, entry in parts.items()}


def _split(entry: Mapping[str, Quantity], values: Values) -> DirectionProbe:
    """Return the accuracies of one part, and the odd and the even part of the learned displacement's effect."""
    after, opposite = values[entry[LEARNED]], values[entry[NEGATIVE]]
    before = values[entry[LEARNED]._replace(condition=META_INIT)]
    found = {direction: values.accuracy(quantity) for direction, quantity in entry.items()}
    odd = values.difference(after / 2, opposite / 2)
    mean = (after + opposite) / 2
    # equal accuracies may differ by rounding, which would count as an effect
    even = values.difference(torch.where((mean - before).abs() < _ROUNDING, before, mean), before)
    return DirectionProbe.model_validate({**found, "odd": odd, "even": even})


def _cells(model: ModelProbe, text: Format) -> Iterator[Sequence[Cell]]:
    for protocol in ADAPTED:
        for part, found in model.directions.get(protocol, {}).items():
            estimates = effects(found)
            yield protocol, part, *(text.delta(estimates.get(kind)) for kind in KINDS)


# differences to the meta-initialisation: of the learned displacement, its two parts, and other displacements
KINDS = ("effect", "odd", "even", "negative", "twice", "random signs", "gaussian")
_DRAWN: Mapping[str, Style] = {
    "odd": ("blue", "o"),
    "even": ("vermillion", "s"),
    "random signs": ("muted", "^"),
    "gaussian": ("green", "v"),
}
_CAUTION = (
    "The odd part changes its sign with the displacement, as an effect of going downhill or uphill does; the even part "
    "is the same for a displacement and its negative. They add up to the effect. Random displacements have no odd part "
    "on average, so compare them with the even part. Parts of single layers need not add up to those of the body."
)


@dataclass(frozen=True)
class Split:
    """One model, or several seeds of one recipe, under one protocol."""

    label: str
    protocol: str
    n_seeds: int
    parts: Mapping[str, Mapping[str, Estimate]]  # by part of the network and kind; intervals over seeds if several

    @property
    def whole(self) -> Mapping[str, Estimate]:
        """The estimates of the whole body."""
        return next(iter(self.parts.values()))


def effects(probe: DirectionProbe) -> dict[str, Delta]:
    """Return the differences of one part of the network, by kind, as far as they were measured."""
    accuracies = {
        "effect": probe.learned,
        "negative": probe.negative,
        "twice": probe.twice,
        "random signs": probe.random_signs,
        "gaussian": probe.gaussian,
    }
    measured = {kind: found.delta for kind, found in accuracies.items() if found and found.delta}
    return {"odd": probe.odd, "even": probe.even, **measured}


def splits(material: Material) -> list[Split]:
    """Return what is drawn, by model or group of seeds and protocol."""
    return [
        Split(label, protocol, len(probes), _parts(probes))
        for label, group in by_recipe([subject for subject in material.subjects if subject.probe.directions])
        for protocol in ADAPTED
        if (probes := [probe.directions[protocol] for probe in group if protocol in probe.directions])
    ]


def _parts(probes: Sequence[Mapping[str, DirectionProbe]]) -> dict[str, dict[str, Estimate]]:
    """Return the estimates by part and kind: those of one model, or over seeds."""
    found: dict[str, dict[str, Estimate]] = {}
    for part in probes[0]:
        by_model = [effects(probe[part]) for probe in probes if part in probe]
        for kind in by_model[0]:
            found.setdefault(part, {})[kind] = combined([each[kind] for each in by_model if kind in each])
    return found


def sentence(found: Sequence[Split]) -> str:
    """Return the parts of the effect of the whole body, model by model."""
    return joined([_describe(split) for split in found])


def _describe(split: Split) -> str:
    seeds = f", {counted(split.n_seeds, 'seed')}" if split.n_seeds > 1 else ""
    head = f"{split.label}, {split.protocol}{seeds}"
    if all(bounds(estimate) == (0, 0) for estimate in split.whole.values()):
        return f"{head}: accuracy changes in no episode."
    parts = (f"{kind} {points(split.whole[kind])}" for kind in ("effect", *_DRAWN) if kind in split.whole)
    return f"{head}, points: {', '.join(parts)}."


def table(found: Sequence[Split]) -> Table:
    """Return a row for each model or group, protocol and part."""
    rows = [
        (split.label, split.protocol, str(split.n_seeds), part, *(points(estimates.get(kind)) for kind in KINDS))
        for split in found
        for part, estimates in split.parts.items()
    ]
    return Table(("model", "protocol", "seeds", "displaced", *(f"{kind}, points" for kind in KINDS)), rows)


def draw(found: Sequence[Split], frame: Frame) -> Figure:
    """Draw a panel for each model or group and protocol, and in it a row for each part of the network."""
    longest = max(len(split.parts) for split in found)
    figure, panels, _ = frame.panels(len(found), 2, row=74 + 40 * longest, margin=34, sharex=True)
    for axes, split in zip(panels, found, strict=True):
        _panel(axes, split, frame)
    label_lowest(panels, frame, "delta to meta-init, points")
    style_legend(figure, _DRAWN, ncols=2 if frame.narrow else 4)
    return figure


def _panel(axes: Axes, split: Split, frame: Frame) -> None:
    axes.set_title(frame.title(f"{split.label}, {split.protocol}", 2))
    for y, estimates in enumerate(split.parts.values()):
        for i, (kind, style) in enumerate(_DRAWN.items()):
            if kind in estimates:
                draw_estimate(axes, estimates[kind], y + 0.2 * (i - 1.5), style)
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    name_rows(axes, [frame.label(part) for part in split.parts])


KIND = Kind("directions", "Direction and size of the displacement", "`nilr probe MODEL --directions`",
            splits, draw, sentence, table, _CAUTION)  # fmt: skip
_TABLE = table_of(("protocol", "displaced", *KINDS), _cells, names=3)
SECTION = Section("directions", "directions", _plan, _build, _TABLE, KIND, ADAPTED)
