"""The sections of a probe's result, each one object: what it needs, how it is computed, shown and drawn.

To add a section: write it, list it here, and add its flag to `ProbeSettings` and its field to
`nilr.results.ModelProbe`.
"""

from typing import Any

from nilr.results.probe import ProbeMetrics
from nilr.sections import (
    directions,
    edits,
    geometry,
    harm,
    own_head,
    permutations,
    protocols,
    rows,
    similarity,
    transfer,
)
from nilr.sections.section import Format, Section, Table

SECTIONS: tuple[Section[Any], ...] = (
    edits.SECTION,
    own_head.SECTION,
    directions.SECTION,
    permutations.SECTION,
    harm.SECTION,
    rows.NEIGHBOURS,
    rows.LAYERS,
    rows.STEPS,
    rows.SHARED_CLASSES,
    rows.UNIVERSALITY,
    similarity.SECTION,
    geometry.SECTION,
    transfer.SECTION,
)


def tables(metrics: ProbeMetrics, text: Format) -> list[Table]:
    """Return the tables for the terminal. The table of edits replaces that of the protocols."""
    found = [table for section in SECTIONS if (table := section.table(metrics, text))]
    return found if any(model.edits for model in metrics.values()) else [protocols.table(metrics, text), *found]
