"""What an experiment finds of the paper's four signs: a forest plot, and another one for other choices."""

from collections.abc import Sequence
from typing import NamedTuple

from nilr.claims import claim_word
from nilr.claims.over_seeds import mark, primary
from nilr.report.figures.figure import Kind, Material, Table, draw_estimate, name_rows
from nilr.report.numbers import points
from nilr.report.style import PROTOCOL_STYLE, Axes, Figure, Frame, colour
from nilr.results.reproduce import Sign
from nilr.words import counted

DEFAULT_CHOICE = "default"
_CAUTION = (
    "Large markers with bars are means with 95 % intervals over seeds, and over new classes too if the result has the "
    "values of the episodes; small ones are the seeds. An arrow shows the sign that the paper claims."
)
_CHOICES_CAUTION = (
    "The same models and differences, with one choice made differently. Exploratory: intervals are 95 % and "
    "not corrected for their number; in the table, * marks p below 0.05 after Holm's correction for all of them."
)


class Choice(NamedTuple):
    """A sign under one choice."""

    choice: str
    sign: Sign


def signs(material: Material) -> list[Sign]:
    """Return the signs of all experiments."""
    return [
        sign for source in material.sources if source.command == "reproduce" for sign in source.result.metrics.signs
    ]


def choices(material: Material) -> list[Choice]:
    """Return the signs under every choice, the default one first; nothing if there is no other."""
    metrics = [source.result.metrics for source in material.sources if source.command == "reproduce"]
    other = [Choice(choice, sign) for one in metrics for choice, of in one.choices.items() for sign in of]
    return [*(Choice(DEFAULT_CHOICE, sign) for sign in signs(material)), *other] if other else []


def sentence(found: Sequence[Sign]) -> str:
    """Return what is found of each sign."""
    parts = [f"{s.run}, {s.protocol}: the paper claims a {claim_word(s.claimed)}, {s.finding}" for s in found]
    return f"{'; '.join(parts)}."


def table(found: Sequence[Sign]) -> Table:
    """Return the difference in each seed."""
    rows = [
        (sign.run, sign.protocol, seed, f"{100 * value:+z.2f}")
        for sign in found
        for seed, value in sign.measured.seeds.items()
    ]
    return Table(("run", "protocol", "seed", "delta to meta-init, points"), rows)


def draw(found: Sequence[Sign], frame: Frame) -> Figure:
    """Draw a row for each sign."""
    labels = [f"{frame.label(f'{s.run}, {s.protocol}')}\npaper: {claim_word(s.claimed)}\n{s.finding}" for s in found]
    figure = frame.figure(56 + frame.rows(labels, 62))
    axes = figure.subplots()
    for y, sign in enumerate(found):
        name, marker = PROTOCOL_STYLE[sign.protocol]
        seeds = [100 * value for value in sign.measured.seeds.values()]
        axes.plot(seeds, [y - 0.22] * len(seeds), color=colour(name), marker=marker, linestyle="none", alpha=0.55,
                  markersize=3.5 * frame.scale)  # fmt: skip
        draw_estimate(axes, primary(sign.measured), y + 0.08, (name, marker))
        draw_claim(axes, sign.claimed, y + 0.08, sign.protocol, frame)
    _finish(axes)
    name_rows(axes, labels)
    return figure


def draw_claim(axes: Axes, claimed: int, y: float, protocol: str, frame: Frame) -> None:
    """Draw an arrow at the edge of the panel that shows a claimed sign."""
    axes.plot(
        0.985 if claimed > 0 else 0.015,
        y,
        marker=">" if claimed > 0 else "<",
        markersize=6.5 * frame.scale,
        markeredgecolor=colour(PROTOCOL_STYLE[protocol][0]),
        transform=axes.get_yaxis_transform(),
        markerfacecolor="none",
        linestyle="none",
    )


def _finish(axes: Axes) -> None:
    axes.axvline(0, color=colour("muted"), linewidth=1.2)
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.07 * (high - low), high + 0.07 * (high - low))
    axes.set_xlabel("delta to meta-init, points")


def _panels(found: Sequence[Choice]) -> dict[tuple[str, int], str]:
    """Return the run by protocol and claimed sign; other choices of training are runs with names of their own."""
    panels: dict[tuple[str, int], str] = {}
    for _, sign in found:
        panels.setdefault((sign.protocol, sign.claimed), sign.run)
    return panels


def choices_sentence(found: Sequence[Choice]) -> str:
    """Count the choices under which the interval has the claimed sign, for each sign."""
    parts = []
    for (protocol, claimed), run in _panels(found).items():
        of = [c.sign.measured for c in found if (c.sign.protocol, c.sign.claimed) == (protocol, claimed)]
        known = [(one.mean * claimed, one.ci95) for one in map(primary, of) if one.ci95 is not None]
        agree, differ = (sum(side * mean > ci95 for mean, ci95 in known) for side in (1, -1))
        gain = f"the claimed {claim_word(claimed)}"
        parts.append(f"{run}, {protocol}: {agree} of {counted(len(of), 'choice')} have {gain}, {differ} the opposite")
    return f"{'; '.join(parts)}; in the others the interval includes zero."


def choices_table(found: Sequence[Choice]) -> Table:
    """Return a row for each choice and sign."""
    rows = [
        (
            choice,
            sign.run,
            sign.protocol,
            claim_word(sign.claimed),
            points(primary(sign.measured)) + mark(sign.measured),
            str(sign.measured.n_seeds),
        )
        for choice, sign in found
    ]
    return Table(("choice", "run", "protocol", "claimed", "delta to meta-init, points", "seeds"), rows)


def draw_choices(found: Sequence[Choice], frame: Frame) -> Figure:
    """Draw a panel for each sign, and in it a row for each choice."""
    names = list(dict.fromkeys(choice for choice, _ in found))
    labels = [frame.label(name, 16 if frame.narrow else 24) for name in names]
    panels = _panels(found)
    figure, axes, first = frame.panels(len(panels), 2, row=64 + frame.rows(labels, 26), margin=10)
    for one, ((protocol, claimed), run) in zip(axes, panels.items(), strict=True):
        one.set_title(f"{frame.title(f'{run}, {protocol}', 2)}\npaper: {claim_word(claimed)}")
        one.axhspan(-0.5, 0.5, color=colour("grid"), alpha=0.5, linewidth=0, zorder=0)
        for choice, sign in found:
            if (sign.protocol, sign.claimed) == (protocol, claimed):
                draw_estimate(one, primary(sign.measured), names.index(choice), PROTOCOL_STYLE[protocol])
        _finish(one)
        name_rows(one, labels if one in first else [""] * len(labels))
    return figure


SIGNS_KIND = Kind("signs", "The four signs", "a result of reproduce with maml and metasgd",
                  signs, draw, sentence, table, _CAUTION)  # fmt: skip
CHOICES_KIND = Kind("choices", "The four signs under other choices: exploratory",
                    "a result of reproduce with other choices", choices,
                    draw_choices, choices_sentence, choices_table, _CHOICES_CAUTION)  # fmt: skip
