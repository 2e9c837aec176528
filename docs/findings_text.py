"""Results of `reproduction/` as text: means, intervals and Markdown tables."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nilr.claims.over_seeds import adjusted, mark
from nilr.inference import over_seeds
from nilr.results.reproduce import OverSeeds

DOCS = Path(__file__).parent
EVIDENCE = DOCS / "reproduction"


def read(path: str) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON of a file of the evidence."""
    return json.loads((EVIDENCE / path).read_text(encoding="utf-8"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def points(mean: float, ci95: float) -> str:
    """Return a difference in points; bold if its interval excludes zero."""
    text = f"{100 * mean:+z.2f} ± {100 * ci95:.2f}"
    return f"**{text}**" if abs(mean) > ci95 else text


def percent(values: Iterable[float]) -> str:
    """Return the range of fractions in percent."""
    low, high = min(values := list(values)), max(values)
    return f"{100 * low:.1f}" if f"{low:.3f}" == f"{high:.3f}" else f"{100 * low:.1f} to {100 * high:.1f}"


def accuracy(value: Mapping[str, float]) -> str:
    """Return a mean accuracy with its interval in percent."""
    return f"{100 * value['mean']:.1f} ± {100 * value['ci95']:.1f}"


def measured(value: Mapping[str, float]) -> str:
    """Return a stored difference over seeds."""
    return points(value["mean"], value["ci95"])


def across(seeds: Sequence[float]) -> str:
    """Return the difference over seeds of one mean per seed."""
    found = over_seeds(seeds)
    return points(found.mean, found.ci95)


def across_levels(seeds: Sequence[float]) -> str:
    """Return the accuracy over seeds in percent."""
    found = over_seeds(seeds)
    return accuracy({"mean": found.mean, "ci95": found.ci95})


def across_numbers(seeds: Sequence[float], digits: int = 4) -> str:
    """Return the mean over seeds of numbers that are not fractions; bold if it differs from 0, `-` if all are 0."""
    if not any(seeds):
        return "-"
    found = over_seeds(seeds)
    assert found.ci95 is not None
    text = f"{found.mean:+z.{digits}f} ± {found.ci95:.{digits}f}"
    return f"**{text}**" if abs(found.mean) > found.ci95 else text


def starred(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, ...]]:
    """Return rows of stored differences over seeds, with a star if p is below 0.05 after Holm's correction."""
    found = adjusted({name: [OverSeeds.model_validate(value) for value in values] for name, values in rows.items()})
    return [
        (name, *(f"{measured(value)}{mark(of)}" for value, of in zip(values, found[name], strict=True)))
        for name, values in rows.items()
    ]
