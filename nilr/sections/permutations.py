"""`permutations`: how much adaptation depends on which label each class of an episode has.

Ye, Chao: How to Train Your MAML to Excel in Few-Shot Classification, 2022 (UNICORN-MAML).
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from nilr.config.base import ADAPTED
from nilr.probes.conditions import Condition, Quantity
from nilr.probes.readings import HeadAccuracy
from nilr.probes.tasks import draw_permutations
from nilr.results.probe import PermutationProbe, ProbeMetrics
from nilr.sections import permutations_figure
from nilr.sections.section import Format, Request, Section, Table
from nilr.sections.values import Values, mean_of

Readers = dict[str, dict[str, Quantity]]
"""Quantities by who classifies, `neighbours` or `own-head`, and permutation."""


def _plan(request: Request) -> dict[str, Readers]:
    """Return by protocol; the head is never evaluated in cross-task, since it distinguishes the classes of A."""
    identity, *others = draw_permutations(request.n_way, request.settings.permutations or 0, request.settings.seed)

    def permuted(condition: Condition) -> dict[str, Condition]:
        changed = {permutation: replace(condition, permutation=permutation) for permutation in others}
        found = {identity: condition, **changed}
        return {"-".join(map(str, permutation)): one for permutation, one in found.items()}

    plan: dict[str, Readers] = {}
    for protocol in request.adapted:
        conditions = permuted(request.conditions[protocol])
        plan[protocol] = {"neighbours": {name: request.accuracy(one) for name, one in conditions.items()}}
        if protocol == "same-task":
            plan[protocol]["own-head"] = {name: Quantity(one, HeadAccuracy()) for name, one in conditions.items()}
    return plan


def _build(readers: Readers, values: Values) -> dict[str, PermutationProbe]:
    return {reader: _spread(entry, values) for reader, entry in readers.items()}


def _spread(entry: Mapping[str, Quantity], values: Values) -> PermutationProbe:
    accuracies = torch.stack([values[quantity] for quantity in entry.values()])
    return PermutationProbe(
        mean=mean_of(accuracies.mean(0)),
        spread=mean_of(accuracies.std(0, correction=1)),
        best=mean_of(accuracies.amax(0)),
        worst=mean_of(accuracies.amin(0)),
    )


def _table(metrics: ProbeMetrics, text: Format) -> Table | None:
    """Return a row for each model, protocol and reader."""
    rows = [
        (name, protocol, reader, *map(text.mean, (found.mean, found.spread, found.worst, found.best)))
        for name, model in metrics.items()
        for protocol, readers in model.permutations.items()
        for reader, found in readers.items()
    ]
    header = ("model", "protocol", "classified by", "mean over labels", "spread", "worst", "best")
    return Table(header, rows, names=3) if rows else None


SECTION = Section("permutations", "permutations", _plan, _build, _table, permutations_figure.KIND, ADAPTED)
