"""What the rates do to real gradients, by layer: how much they ascend, and how far they turn the step."""

from collections.abc import Mapping

from nilr.report.figures.figure import Kind, Material, Table, draw_estimate, name_rows, style_legend
from nilr.report.figures.seeds import combined, group_labels
from nilr.report.numbers import NOTHING, Estimate, accuracy, joined, percent, plain
from nilr.report.style import Figure, Frame
from nilr.report.subjects import labelled
from nilr.results.probe import RateFigures
from nilr.words import counted

Effects = Mapping[str, Mapping[str, Mapping[str, Estimate]]]
"""By model or group of seeds, then by layer (`all` first), then `ascent` and `cosine`."""

_STYLES = (
    ("blue", "o"),
    ("vermillion", "s"),
    ("green", "D"),
    ("purple", "^"),
    ("orange", "v"),
    ("sky", "P"),
    ("ink", "X"),
)
_CAUTION = (
    "For rates a and gradients g: ascent is the share of the sum of |a| g^2 that belongs to negative rates, "
    "cosine that of the angle between the step a*g and the gradient g (1: the same direction). Intervals are over "
    "episodes, or over seeds."
)


def effects(material: Material) -> Effects:
    """Return the effects of models whose rates were measured on episodes; seeds of one recipe become one."""
    groups: dict[object, list[tuple[str, object, Mapping[str, RateFigures]]]] = {}
    for label, name, source in labelled(material.sources, "rates"):
        model, used = source.result.metrics[name], dict(zip(source.result.metrics, source.result.models, strict=False))
        if model.all.cosine is not None:
            recipe = used[name].recipe if name in used and used[name].seed is not None else None
            groups.setdefault(recipe or label, []).append((label, used.get(name), {"all": model.all, **model.layers}))
    several = [group for group in groups.values() if len(group) > 1]
    names = iter(group_labels([[used for _, used, _ in group] for group in several]))  # type: ignore[misc]
    found = {}
    for group in groups.values():
        label = f"{next(names)}, {counted(len(group), 'seed')}" if len(group) > 1 else group[0][0]
        layers = {layer: _together([of.get(layer) for _, _, of in group]) for layer in group[0][2]}
        found[label] = {layer: both for layer, both in layers.items() if both}
    return found


def _together(several: list[RateFigures | None]) -> dict[str, Estimate]:
    found = {}
    for name in ("ascent", "cosine"):
        estimates = [mean for one in several if one is not None and (mean := getattr(one, name)) is not None]
        if len(estimates) == len(several):
            found[name] = combined(estimates)
    return found


def sentence(found: Effects) -> str:
    """Return both numbers of all rates, and the layer with the largest ascent."""
    parts = []
    for label, layers in found.items():
        whole = layers["all"]
        ascents = {layer: both["ascent"].mean for layer, both in layers.items() if layer != "all" and "ascent" in both}
        most = max(ascents, key=ascents.__getitem__, default=None)
        where = f" (most in {most}, {percent(ascents[most])})" if most and ascents[most] > 0 else ""
        ascent = percent(whole["ascent"].mean) if "ascent" in whole else "an unknown share"
        parts.append(f"In {label}, {ascent} of the step ascends{where}; its cosine with the gradient is "
                     f"{whole['cosine'].mean:z.2f}.")  # fmt: skip
    return joined(parts)


def table(found: Effects) -> Table:
    """Return a row for each model or group and layer."""
    rows = [
        (label, layer, accuracy(both["ascent"]) if "ascent" in both else NOTHING, plain(both.get("cosine")))
        for label, layers in found.items()
        for layer, both in layers.items()
    ]
    return Table(("model", "layer", "ascent", "cosine"), rows)


def draw(found: Effects, frame: Frame) -> Figure:
    """Draw a panel for each of both numbers, with a row for each layer."""
    names = list(dict.fromkeys(layer for layers in found.values() for layer in layers))
    row = max(26, 9 * len(found))
    figure, panels, first = frame.panels(2, 2, row=64 + row * len(names), margin=12 + 20 * -(-len(found) // 3))
    styles = {label: _STYLES[i % len(_STYLES)] for i, label in enumerate(found)}
    for axes, (name, scale, title) in zip(
        panels, (("ascent", 100, "ascent, %"), ("cosine", 1, "cosine with the gradient")), strict=True
    ):
        for i, (label, layers) in enumerate(found.items()):
            shift = 0.7 * ((i + 0.5) / len(found) - 0.5)
            for layer, both in layers.items():
                if name in both:
                    draw_estimate(axes, both[name], names.index(layer) + shift, styles[label], scale=scale)
        axes.set_title(title)
        name_rows(axes, names if axes in first else [""] * len(names))
    style_legend(
        figure, {frame.label(label, 20): style for label, style in styles.items()}, ncols=2 if frame.narrow else 3
    )
    return figure


KIND = Kind("rate-effects", "Ascent and cosine of the rates", "the result of `nilr rates MODEL`",
            effects, draw, sentence, table, _CAUTION)  # fmt: skip
