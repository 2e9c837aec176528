"""`geometry`: how far apart and how compact the classes of the query images are in feature space."""

from collections.abc import Mapping, Sequence

from nilr.config.base import ADAPTED
from nilr.probes.conditions import META_INIT, Quantity
from nilr.probes.geometry import MEASURES
from nilr.probes.readings import Geometry
from nilr.report.figures.figure import Table
from nilr.report.numbers import NOTHING, Estimate
from nilr.report.subjects import Subject
from nilr.results.probe import GeometryProbe, ModelProbe
from nilr.sections import changes
from nilr.sections.section import Cell, Format, Request, Section, table_of
from nilr.sections.values import Values, mean_where_defined
from nilr.words import signed

Row = dict[str, Quantity]
"""Quantities by protocol."""

_CAUTION = (
    "Larger inverse CDNV and smaller hyperplane variation mean classes that are further apart for their size. All are "
    "of the query images, and ignore shift, scale and rotation of the features."
)


def _plan(request: Request) -> dict[str, Row]:
    """Return by measure and protocol."""
    return {name: {p: Quantity(c, Geometry(name)) for p, c in request.conditions.items()} for name in MEASURES}


def _build(row: Row, values: Values) -> dict[str, GeometryProbe]:
    found = {}
    for protocol, quantity in row.items():
        after, before = values[quantity], values[quantity._replace(condition=META_INIT)]
        difference = None if quantity.condition == META_INIT else mean_where_defined(after - before)
        found[protocol] = GeometryProbe(value=mean_where_defined(after), difference=difference)
    return found


def _rows(model: ModelProbe, _text: Format | None = None) -> list[Sequence[Cell]]:
    return [(measure, *_cells(row)) for measure, row in model.geometry.items()]


def _cells(row: Mapping[str, GeometryProbe]) -> list[Cell]:
    before = row["meta-init"].value
    differences = [row[p].difference if p in row else None for p in ADAPTED]
    return [None if before is None else f"{before.mean:z.3f}", *(_difference(d) if d else None for d in differences)]


def _difference(mean: Estimate) -> str:
    return signed(mean.mean, 4) + ("" if mean.ci95 is None else f" ± {mean.ci95:.4f}")


def differences(model: ModelProbe) -> dict[str, dict[str, Estimate]]:
    """Return the differences to meta-init by measure and protocol."""
    measured: dict[str, dict[str, Estimate]] = {
        measure: {protocol: probe.difference for protocol, probe in row.items() if probe.difference is not None}
        for measure, row in model.geometry.items()
    }
    return {measure: row for measure, row in measured.items() if row}


def table(subjects: Sequence[Subject]) -> Table:
    """Return a row for each model or control and measure."""
    rows = [(s.label, *(cell or NOTHING for cell in row)) for s in subjects for row in _rows(s.probe)]
    return Table(("model", "measure", "meta-init", *(f"{p} difference" for p in ADAPTED)), rows)


KIND = changes.kind(
    "geometry",
    "Geometry of the classes",
    "--geometry",
    differences,
    table,
    _CAUTION,
    axis="difference to meta-init",
    written=_difference,
)
_TABLE = table_of(("geometry", "meta-init", *(f"{p} delta" for p in ADAPTED)), _rows)
SECTION = Section("geometry", "geometry", _plan, _build, _TABLE, KIND, of_controls=True)
