"""The sections of a probe's result, one file each: what it needs, how it is computed, shown and drawn.

To add a section: write its file, list it here, and add its flag to `ProbeSettings` and its field to
`nilr.results.ModelProbe`.
"""

from __future__ import annotations

from typing import Any

from nilr.results.probe import ProbeMetrics
from nilr.sections import edits, layers, neighbours, own_head, protocols, shared_classes, similarity, steps
from nilr.sections.section import Format, Section, Table

SECTIONS: tuple[Section[Any], ...] = (
    edits.SECTION,
    own_head.SECTION,
    neighbours.SECTION,
    layers.SECTION,
    steps.SECTION,
    shared_classes.SECTION,
    similarity.SECTION,
)


def tables(metrics: ProbeMetrics, text: Format) -> list[Table]:
    """Return the tables for the terminal. The table of edits replaces that of the protocols."""
    found = [table for section in SECTIONS if (table := section.table(metrics, text))]
    return found if any(model.edits for model in metrics.values()) else [protocols.table(metrics, text), *found]
