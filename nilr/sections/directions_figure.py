"""The odd and the even part of adaptation's effect, by layer, beside random displacements of the same size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nilr.config.base import ADAPTED
from nilr.report.figures.figure import (
    Drawing,
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
from nilr.report.subjects import Subject
from nilr.results.probe import DirectionProbe
from nilr.results.records import Delta
from nilr.words import counted

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


def make(material: Material) -> Drawing | None:
    """Return the figure of all models that were probed with `--directions`."""
    found = splits(material.subjects)
    if not found:
        return None
    return Drawing(lambda frame: draw(found, frame), sentence(found), table(found), _CAUTION)


KIND = Kind("directions", "Direction and size of the displacement", "`nilr probe MODEL --directions`", make)


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


def splits(subjects: Sequence[Subject]) -> list[Split]:
    """Return what is drawn, by model or group of seeds and protocol."""
    return [
        Split(label, protocol, len(probes), _parts(probes))
        for label, group in by_recipe([subject for subject in subjects if subject.probe.directions])
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
    axes.set_title(f"{frame.label(split.label)}, {split.protocol}")
    for y, estimates in enumerate(split.parts.values()):
        for i, (kind, style) in enumerate(_DRAWN.items()):
            if kind in estimates:
                draw_estimate(axes, estimates[kind], y + 0.2 * (i - 1.5), style)
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    name_rows(axes, [frame.label(part) for part in split.parts])
