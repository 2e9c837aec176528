"""Differences to meta-init of several models or seeds: a panel for each of several measures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nilr.config.base import ADAPTED
from nilr.report.figures.figure import Kind, Material, Table, draw_estimate, name_rows, protocol_legend
from nilr.report.figures.seeds import by_recipe, combined
from nilr.report.numbers import Estimate, bounds
from nilr.report.style import PROTOCOL_STYLE, Figure, Frame, colour
from nilr.report.subjects import Subject
from nilr.results.probe import ModelProbe
from nilr.words import counted

Changes = Mapping[str, Mapping[str, Mapping[str, Estimate]]]
"""Differences by measure, protocol and label; only measured ones."""

Differences = Callable[[ModelProbe], Mapping[str, Mapping[str, Estimate]]]
"""Returns a model's measured differences, by measure and protocol."""


def kind(
    name: str,
    title: str,
    flag: str,
    differences: Differences,
    table: Callable[[Sequence[Subject]], Table],
    caution: str,
    *,
    axis: str,
    written: Callable[[Estimate], str],
    unit: float = 1,
    is_open: bool = False,
) -> Kind:
    """Return a kind of figure that draws differences; see `Kind`, `collect`, `sentence` and `draw`."""

    def find(material: Material) -> tuple[Any, ...]:
        found = collect(material.subjects, differences)
        return (found, material.subjects) if found else ()

    return Kind(
        name,
        title,
        f"`nilr probe MODEL {flag}`",
        find,
        lambda both, frame: draw(both[0], frame, axis, unit=unit),
        lambda both: sentence(both[0], written),
        lambda both: table(both[1]),
        caution,
        lambda _: is_open,
    )


def collect(subjects: Sequence[Subject], differences: Differences) -> Changes:
    """Return the differences of each model; seeds of one recipe become one, with an interval over seeds."""
    found: dict[str, dict[str, dict[str, list[Estimate]]]] = {}
    for name, probes in by_recipe([subject for subject in subjects if differences(subject.probe)]):
        label = name if len(probes) == 1 else f"{name}, {counted(len(probes), 'seed')}"
        for probe in probes:
            for measure, by_protocol in differences(probe).items():
                for protocol, estimate in by_protocol.items():
                    of_protocol = found.setdefault(measure, {}).setdefault(protocol, {})
                    of_protocol.setdefault(label, []).append(estimate)
    return {
        measure: {
            protocol: {label: combined(estimates) for label, estimates in by_label.items()}
            for protocol, by_label in by_protocol.items()
        }
        for measure, by_protocol in found.items()
    }


def sentence(found: Changes, written: Callable[[Estimate], str]) -> str:
    """Return the largest difference of each measure and protocol."""
    parts = []
    for measure, protocols in found.items():
        for protocol, estimates in protocols.items():
            head = f"{measure.capitalize()}, {protocol}:"
            if all(bounds(estimate) == (0, 0) for estimate in estimates.values()):
                parts.append(f"{head} adaptation changes nothing.")
                continue
            label, estimate = max(estimates.items(), key=lambda item: abs(item[1].mean))
            largest = "largest change" if len(estimates) > 1 else "change"
            parts.append(f"{head} the {largest} is {written(estimate)}, in {label}.")
    return " ".join(parts)


def draw(found: Changes, frame: Frame, axis: str, *, unit: float = 1) -> Figure:
    """Draw a panel for each measure, and in it the differences under each protocol, times `unit`."""
    protocols = [p for p in ADAPTED if any(p in measured for measured in found.values())]
    labels = list(dict.fromkeys(label for by in found.values() for estimates in by.values() for label in estimates))
    named = [frame.label(label) for label in labels]
    figure, panels, first_column = frame.panels(len(found), 3, row=64 + frame.rows(named, 26), margin=34)
    for axes, (measure, by_protocol) in zip(panels, found.items(), strict=True):
        axes.set_title(frame.title(measure, 3))
        axes.set_xlabel(axis)
        for protocol, estimates in by_protocol.items():
            shift = 0.0 if len(by_protocol) == 1 else -0.16 if protocol == ADAPTED[0] else 0.16
            for label, estimate in estimates.items():
                draw_estimate(axes, estimate, labels.index(label) + shift, PROTOCOL_STYLE[protocol], scale=unit)
        axes.axvline(0, color=colour("muted"), linewidth=1.2)
        name_rows(axes, named if axes in first_column else [""] * len(named))
    protocol_legend(figure, protocols, ncols=2)
    return figure
