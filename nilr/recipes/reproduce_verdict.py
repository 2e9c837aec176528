"""What an experiment concludes: the paper's four signs and the causal table, from seed means alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nilr.inference import LEAST_SEEDS, over_seeds
from nilr.probes.claims import CLAIMS
from nilr.probes.edits import LEARNED
from nilr.results import ModelProbe, ModelRates
from nilr.results.reproducing import OverSeeds, RunFigures, Sign

ADAPTED = ("same-task", "cross-task")
Finding = Literal["confirmed", "refuted", "undecided"]


@dataclass(frozen=True)
class Seen:
    """One trained model, as it was seen: its seed, name, probe and rates."""

    seed: int
    model: str
    probe: ModelProbe
    rates: ModelRates


def seeds_together(means: Mapping[str, float]) -> OverSeeds:
    """Judge a difference by its mean in each seed."""
    found: dict[str, Any] = dataclasses.asdict(over_seeds(list(means.values())))
    return OverSeeds(n_seeds=found.pop("n"), seeds=dict(means), **found)


def run_figures(why: str, seen: Sequence[Seen]) -> RunFigures:
    """Return what a run's seeds say together."""
    edits = {name for model in seen for name in model.probe.edits} - {LEARNED}
    order = [name for name in seen[0].probe.edits if name in edits]
    return RunFigures(
        why=why,
        models=[model.model for model in seen],
        share_negative={str(model.seed): model.rates.all.share_negative for model in seen},
        to_meta_init={protocol: _over(seen, LEARNED, protocol, "delta") for protocol in ADAPTED},
        edits_to_learned={
            name: {protocol: _over(seen, name, protocol, "delta_to_learned") for protocol in ADAPTED} for name in order
        },
    )


def _over(seen: Sequence[Seen], edit: str, protocol: str, which: str) -> OverSeeds:
    means = {}
    for model in seen:
        edits: Mapping[str, Any] = {LEARNED: model.probe, **model.probe.edits}  # learned alone is not listed
        figures = getattr(edits[edit], protocol.replace("-", "_"))
        means[str(model.seed)] = getattr(figures, which).mean
    return seeds_together(means)


def signs(claimants: Mapping[str, str], runs: Mapping[str, RunFigures]) -> list[Sign]:
    """Return the paper's signs, with what was found of each.

    Args:
        claimants: algorithm by run, of the runs that the paper's signs are about.
        runs: what each run's seeds say.
    """
    return [
        Sign(
            run=run,
            protocol=protocol,
            claimed=1 if claimed > 0 else -1,
            finding=finding(runs[run].to_meta_init[protocol], claimed),
            measured=runs[run].to_meta_init[protocol],
        )
        for run, algorithm in claimants.items()
        for protocol, claimed in CLAIMS[algorithm].items()
    ]


def finding(measured: OverSeeds, claimed: int) -> Finding:
    """Compare what the seeds show with the claimed sign."""
    if measured.verdict == "undecided":
        return "undecided"
    return "confirmed" if (measured.verdict == "positive") == (claimed > 0) else "refuted"


def in_words(found: Sequence[Sign]) -> list[str]:
    """Say each verdict in a sentence, and what it rests on."""
    lines = [
        f"{sign.run}, {sign.protocol}: the paper claims {'a gain' if sign.claimed > 0 else 'a loss'}; "
        f"{sign.finding}: {_interval(sign.measured)}."
        for sign in found
    ]
    counts = [f"{sum(sign.finding == word for sign in found)} {word}" for word in ("confirmed", "refuted", "undecided")]
    few = any(sign.measured.n_seeds < LEAST_SEEDS for sign in found)
    why = f" Under {LEAST_SEEDS} seeds nothing is decided." if few else ""
    rest = "Intervals are over seeds, Student's t with seeds - 1 degrees of freedom, on the test classes of one pack."
    return [*lines, f"The paper's four signs: {', '.join(counts)}.{why} {rest}"]


def _interval(measured: OverSeeds) -> str:
    width = "" if measured.ci95 is None else f" ± {100 * measured.ci95:.2f}"
    seeds = "1 seed" if measured.n_seeds == 1 else f"{measured.n_seeds} seeds"
    return f"{100 * measured.mean:+z.2f}{width} points over {seeds}"
