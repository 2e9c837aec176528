"""What a figure is, and the material that figures are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nilr.report.reading import Source
from nilr.report.style import Draw
from nilr.report.subjects import Subject


@dataclass(frozen=True)
class History:
    """What a model's `history.jsonl` says of its rates.

    Attributes:
        label: the model's name.
        steps: outer updates.
        share_negative: at each of them, as a fraction.
        by_layer: the same by layer, where it was kept.
        judged: the update of the checkpoint that the results are of.
    """

    label: str
    steps: Sequence[int]
    share_negative: Sequence[float]
    by_layer: Mapping[str, Sequence[float]] = field(default_factory=dict)
    judged: int | None = None


@dataclass(frozen=True)
class Material:
    """All that a report is made of.

    Attributes:
        sources: the results.
        subjects: the probed models and controls.
        histories: of models with learned rates, as far as they were found.
    """

    sources: Sequence[Source]
    subjects: Sequence[Subject]
    histories: Sequence[History] = ()


@dataclass(frozen=True)
class Table:
    """Cells of text under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn.

    Attributes:
        draw: draws it into a frame.
        sentence: what it shows, from its numbers.
        table: its numbers.
        caution: what it does not show.
        open: whether a page shows the table without being asked.
    """

    draw: Draw
    sentence: str
    table: Table
    caution: str | None = None
    open: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        name: of its files.
        title: above it.
        needs: what provides it.
        make: returns it, or None where the material does not hold what it needs.
    """

    name: str
    title: str
    needs: str
    make: Callable[[Material], Drawing | None]


def quiet_spines(axes: Any) -> None:  # noqa: ANN401 - matplotlib's Axes
    """Leave the value axis's grid alone on the page."""
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
