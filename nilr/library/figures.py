"""Figures of results, as matplotlib objects."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from nilr.errors import UsageError
from nilr.library.arguments import check_name, check_type, naming_arguments
from nilr.report.contents import KINDS
from nilr.report.figures.figure import Material
from nilr.report.reading import Source
from nilr.report.style import NARROW, WIDE, check_matplotlib, make_figure
from nilr.report.subjects import probed
from nilr.results.result import Result

if TYPE_CHECKING:
    import matplotlib.figure


@naming_arguments
def plot(
    results: Result[Any] | Iterable[Result[Any]], figure: str | None = None, *, narrow: bool = False
) -> matplotlib.figure.Figure:
    """Draw a figure of one or several results, as `nilr report` does.

    Args:
        results: from `probe`, `measure_rates` or `read_result`.
        figure: the name of a figure, such as `protocols`, `rates`, `layers` or `harm`; by default the first one for
            which the results have the numbers.
        narrow: whether it is for a narrow column.

    Returns:
        A figure of matplotlib, which has `savefig` and which a notebook shows.

    Raises:
        NilrError: there is no such figure, the results lack its numbers, or matplotlib is not installed.

    Examples:
        >>> import nilr
        >>> result = nilr.measure_rates(nilr.build_model(filters=4, image_size=16, inner_lr="random-sign:0.01"))
        >>> nilr.plot(result, "rates").axes[1].get_title(loc="left")
        'block2: ... % negative'
    """
    kinds = {kind.name: kind for kind in KINDS}
    if figure is not None:
        check_name("figure", figure, kinds)
    check_matplotlib()
    several = list(results) if isinstance(results, Iterable) and not isinstance(results, Result) else [results]
    for result in several:
        check_type("results", result, Result, "give what `probe` or `measure_rates` returns, or several")
    sources = [Source("", str(i), result.command, result) for i, result in enumerate(several)]
    material = Material(sources, probed(sources))
    for kind in kinds.values() if figure is None else (kinds[figure],):
        drawing = kind.make(material)
        if drawing is not None:
            made = make_figure(drawing.draw, NARROW if narrow else WIDE)
            made._repr_png_ = partial(_png, made)  # type: ignore[attr-defined] # a notebook shows it without pyplot
            return made
    others = [kind.name for kind in KINDS if kind.make(material) is not None]
    needs = f"; it needs {kinds[figure].needs}" if figure is not None else ""
    raise UsageError(
        f"the results lack the numbers of the figure{f' `{figure}`' if figure else 's'}{needs}",
        hint=f"they have those of {', '.join(others)}" if others else "give results of probe or measure_rates",
    )


def _png(figure: matplotlib.figure.Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
