"""`directions`: is it the direction of adaptation that matters, or its size?"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from nilr.config.base import ADAPTED
from nilr.probes.conditions import META_INIT, Quantity
from nilr.probes.directions import DIRECTIONS, LEARNED, NEGATIVE, RANDOM_SIGNS, Displacement
from nilr.results.probe import DirectionProbe, ProbeMetrics
from nilr.sections import directions_figure
from nilr.sections.section import Format, Request, Section, Table
from nilr.sections.values import Values

Parts = dict[str, dict[str, Quantity]]
"""Quantities by part of the network and direction."""

_ROUNDING = 1e-12
_WHOLE = "body"  # the head does not change the features
_OF_A_LAYER = (LEARNED, NEGATIVE, RANDOM_SIGNS)


def _plan(request: Request) -> dict[str, Parts]:
    """Return by protocol: every direction of the body, and the most important ones of each layer."""

    def accuracy(protocol: str, part: str, direction: str) -> Quantity:
        plain = request.conditions[protocol]
        # The probe evaluates the learned displacement of the whole body anyway.
        known = part == _WHOLE and direction == LEARNED
        return request.accuracy(plain if known else replace(plain, displacement=Displacement(direction, part)))

    directions = {_WHOLE: tuple(DIRECTIONS)} | dict.fromkeys(request.layers, _OF_A_LAYER)
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


def _table(metrics: ProbeMetrics, text: Format) -> Table | None:
    """Return a row for each model, protocol and part."""
    rows = [
        (name, protocol, part, *(text.delta(estimates.get(kind)) for kind in directions_figure.KINDS))
        for name, model in metrics.items()
        for protocol in ADAPTED
        for part, found in model.directions.get(protocol, {}).items()
        for estimates in [directions_figure.effects(found)]
    ]
    return Table(("model", "protocol", "displaced", *directions_figure.KINDS), rows, names=3) if rows else None


SECTION = Section("directions", "directions", _plan, _build, _table, directions_figure.KIND, ADAPTED)
