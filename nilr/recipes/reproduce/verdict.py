"""What an experiment concludes: the paper's four signs and the causal table, from seed means alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nilr.config import Run
from nilr.inference import LEAST_SEEDS, over_seeds
from nilr.probes.claims import CLAIMS
from nilr.probes.edits import LEARNED
from nilr.results.probing import EditProbe, ModelProbe, ModelRates
from nilr.results.reproducing import OverSeeds, RunFigures, Sign

ADAPTED = ("same-task", "cross-task")
Finding = Literal["confirmed", "refuted", "undecided"]


@dataclass(frozen=True)
class Seen:
    """One trained model, as it was seen: its seed, name, probe, rates, and its probes under other choices."""

    seed: int
    model: str
    probe: ModelProbe
    rates: ModelRates
    choices: Mapping[str, ModelProbe] = field(default_factory=dict)


def seeds_together(means: Mapping[str, float]) -> OverSeeds:
    """Judge a difference by its mean in each seed."""
    found: dict[str, Any] = dataclasses.asdict(over_seeds(list(means.values())))
    return OverSeeds(n_seeds=found.pop("n"), seeds=dict(means), **found)


def run_figures(run: Run, seen: Mapping[str, Sequence[Seen]]) -> RunFigures:
    """Return what a run's seeds say together.

    Args:
        run: the run.
        seen: its models, and those of the runs before it, by run.
    """
    models = seen[run.name]
    measured = _to_meta_init(models)
    other = run.counterpart and _to_meta_init(seen[run.counterpart])
    return RunFigures(
        why=run.why,
        models=[model.model for model in models],
        share_negative={str(model.seed): model.rates.all.share_negative for model in models},
        to_meta_init=measured,
        edits_to_learned=_edits_to_learned(models),
        counterpart=run.counterpart,
        to_counterpart={name: _less(found, other[name]) for name, found in measured.items()} if other else {},
    )


def _less(found: OverSeeds, other: OverSeeds) -> OverSeeds:
    return seeds_together({seed: mean - other.seeds[seed] for seed, mean in found.seeds.items()})


def _edits_to_learned(seen: Sequence[Seen]) -> dict[str, dict[str, OverSeeds]]:
    order = [name for name in seen[0].probe.edits if name != LEARNED]

    def probes(edit: str) -> dict[int, ModelProbe | EditProbe]:
        return {model.seed: model.probe.edits[edit] for model in seen}

    return {
        name: {protocol: _over(probes(name), protocol, "delta_to_learned") for protocol in ADAPTED} for name in order
    }


def _to_meta_init(seen: Sequence[Seen], choice: str | None = None) -> dict[str, OverSeeds]:
    probes = {model.seed: model.choices[choice] if choice else model.probe for model in seen}
    # learned rates alone are not listed as an edit
    learned = {seed: probe.edits.get(LEARNED, probe) for seed, probe in probes.items()}
    return {protocol: _over(learned, protocol, "delta") for protocol in ADAPTED}


def _over(probes: Mapping[int, ModelProbe | EditProbe], protocol: str, which: str) -> OverSeeds:
    field = protocol.replace("-", "_")
    return seeds_together({str(seed): getattr(getattr(probe, field), which).mean for seed, probe in probes.items()})


def signs(claimants: Mapping[str, str], measured: Mapping[str, Mapping[str, OverSeeds]]) -> list[Sign]:
    """Return the paper's signs, with what was found of each.

    Args:
        claimants: algorithm by run, of the runs that the paper's signs are about.
        measured: each run's difference to meta-init, by protocol.
    """
    return [
        Sign(
            run=run,
            protocol=protocol,
            claimed=1 if claimed > 0 else -1,
            finding=finding(measured[run][protocol], claimed),
            measured=measured[run][protocol],
        )
        for run, algorithm in claimants.items()
        for protocol, claimed in CLAIMS[algorithm].items()
    ]


def signs_by_choice(claimants: Mapping[str, str], seen: Mapping[str, Sequence[Seen]]) -> dict[str, list[Sign]]:
    """Return the paper's signs under each choice of probing.

    Args:
        claimants: algorithm by run, of the runs that the paper's signs are about.
        seen: the models of each run.
    """
    choices = dict.fromkeys(name for run in claimants for model in seen[run] for name in model.choices)
    return {name: signs(claimants, {run: _to_meta_init(seen[run], name) for run in claimants}) for name in choices}


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
