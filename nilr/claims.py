"""The four signs that the paper claims, and what probes and experiments find of them.

Starshak (Negative Inner-Loop Learning Rates Learn Universal Features, 2022) claims signs of the change in
nearest-neighbour accuracy from the meta-initialisation to the adapted parameters: MAML gains on the same task and loses
on another task; Meta-SGD loses on the same task and gains on another task.

A claimed gain or loss is confirmed or refuted if the 95 % interval of the measured change excludes zero, else it is
undecided. A probe has intervals over episodes, an experiment over seeds. Fewer than three seeds decide nothing, nor do
generated images: there a finding is a demonstration.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from nilr.checkpoint import TrainedOn
from nilr.config.base import SYNTHETIC
from nilr.config.experiments import Run
from nilr.inference import LEAST_SEEDS, at_equal_level, over_seeds
from nilr.meta.algorithms import Algorithm
from nilr.meta.inner_lr import FIXED_SIGNS, bounds
from nilr.probes.conditions import META_INIT
from nilr.probes.edits import LEARNED
from nilr.results.probe import EditProbe, ModelProbe, ModelRates, ProbeMetrics, ProtocolMetrics
from nilr.results.records import DataUsed, Delta, ModelUsed
from nilr.results.reproduce import EqualLevel, Finding, OverSeeds, RunFigures, Sign
from nilr.words import counted, signed

# algorithm -> protocol -> the sign of the claimed change
CLAIMS: dict[str, dict[str, int]] = {
    "maml": {"same-task": 1, "cross-task": -1},
    "metasgd": {"same-task": -1, "cross-task": 1},
}
DEMONSTRATION = "A demonstration: the images are generated, so this decides nothing about the paper's four signs."
_ADAPTED = ("same-task", "cross-task")

# of the differences between two runs: accuracy before and after adaptation, and what adaptation changes
COUNTERPART = ("before", "after", "gain", "gain at equal level")
GAIN_CAUTION = (
    "A gain depends on the level before adaptation, so compare the levels after it. The gain at equal level is from an "
    "analysis of covariance over seeds; it extrapolates where the levels of two runs do not overlap."
)


def claim_word(claimed: int) -> str:
    """Return "gain" for a positive sign and "loss" for a negative one."""
    return "gain" if claimed > 0 else "loss"


def is_claimed(algorithm: Algorithm) -> bool:
    """Return whether the paper's signs are about an algorithm.

    They are about MAML with one positive rate, and about Meta-SGD whose rates may change their signs.
    """
    if algorithm.name not in CLAIMS:
        return False
    if algorithm.learns_rates:
        return algorithm.constraint != FIXED_SIGNS and bounds(algorithm.constraint)[0] < 0
    with contextlib.suppress(ValueError):
        return float(algorithm.inner_lr_init) > 0
    return False


def is_generated(data: DataUsed | TrainedOn | None) -> bool:
    """Return whether a pack's images are generated; in files of earlier versions its name decides."""
    if data is None:
        return False
    return data.name == SYNTHETIC if data.generated is None else data.generated


def claimed_signs(model: ModelUsed, data: DataUsed | None, config: Mapping[str, Any]) -> Mapping[str, int]:
    """Return the signs that the paper claims of a model in a probe, by protocol.

    There are none for controls and adapted models, for generated images, and for a part of the network.

    Args:
        model: the model.
        data: the evaluated pack.
        config: the probe's settings.
    """
    other = model.claimed is False or model.parent is not None or "all" not in config.get("adapt_part", ("all",))
    return {} if other or is_generated(data) else CLAIMS.get(model.algo, {})


def _judge(claimed: int, measured: float, *, decided: bool) -> Finding:
    if not decided:
        return "undecided"
    return "confirmed" if (measured > 0) == (claimed > 0) else "refuted"


def learned_delta(probe: ModelProbe | EditProbe, protocol: str, which: str = "delta") -> Delta | None:
    """Return a paired difference under a protocol; of a model, the one with its learned rates.

    Args:
        probe: a model's metrics, or those of one edit of its rates.
        protocol: "same-task" or "cross-task".
        which: "delta", the difference to the meta-initialisation, or "delta_to_learned", to the learned rates.

    Returns:
        The difference; None if the probe did not measure it.
    """
    metrics = _learned(probe, protocol)
    return None if metrics is None else getattr(metrics, which)


def _learned(probe: ModelProbe | EditProbe, protocol: str) -> ProtocolMetrics | None:
    # a probe with one edit, the learned rates, has no `edits`
    learned = probe.edits.get(LEARNED, probe) if isinstance(probe, ModelProbe) else probe
    return learned.same_task if protocol == "same-task" else learned.cross_task


def describe_probe(claims: Mapping[str, Mapping[str, int]], metrics: ProbeMetrics, data: DataUsed | None = None) -> str:
    """Return the last line of a probe: its finding on each of the paper's signs, over episodes.

    Args:
        claims: the signs that are claimed of each model, by protocol.
        metrics: what the probe measured.
        data: the evaluated pack.
    """
    if is_generated(data):
        return DEMONSTRATION
    findings = [
        f"{name} {protocol} {claim_word(claimed)} {_describe_delta(delta, claimed)}"
        for name, signs in claims.items()
        for protocol, claimed in signs.items()
        if (delta := learned_delta(metrics[name], protocol)) is not None
    ]
    if not findings:
        return (
            "This probe measured none of the paper's four signs, which are about maml with one positive rate, and "
            "metasgd whose rates may change their signs, same-task and cross-task."
        )
    others = [name for name, signs in claims.items() if not signs]
    unclaimed = f" No sign is claimed of {', '.join(others)}." if others else ""
    scope = "Intervals are over episodes, for these models and classes only."
    if next(iter(metrics.values())).meta_init.accuracy.n_episodes == 1:
        scope = "One episode gives no interval."
    return f"The paper's four signs, over episodes: {'; '.join(findings)}.{unclaimed} {scope}"


def _describe_delta(delta: Delta, claimed: int) -> str:
    finding = _judge(claimed, delta.mean, decided=delta.ci95 is not None and abs(delta.mean) > delta.ci95)
    points = signed(100 * delta.mean)
    if delta.ci95 is None:
        return f"{finding} ({points} points, one episode)"
    if delta.verdict is not None:
        return f"{finding} ({points} points, {delta.verdict})"
    return f"{finding} ({points} ± {100 * delta.ci95:.2f} points)"


@dataclass(frozen=True)
class MeasuredModel:
    """What an experiment has measured of one trained model."""

    seed: int  # of its training
    model: str  # its name
    probe: ModelProbe  # with the protocol of the paper
    rates: ModelRates  # its learned rates
    # its probes under other choices, by the choice's name
    choices: Mapping[str, ModelProbe] = field(default_factory=dict)


def combine_seeds(means: Mapping[str, float]) -> OverSeeds:
    """Return the inference on a difference from its mean in each seed."""
    inference: dict[str, Any] = dataclasses.asdict(over_seeds(list(means.values())))
    return OverSeeds(n_seeds=inference.pop("n"), seeds=dict(means), **inference)


def run_figures(run: Run, models: Mapping[str, Sequence[MeasuredModel]]) -> RunFigures:
    """Return the differences of one run, over its seeds."""
    seeds = models[run.name]
    figures = RunFigures(
        why=run.why,
        models=[model.model for model in seeds],
        share_negative={str(model.seed): model.rates.all.share_negative for model in seeds},
        accuracy=_accuracies(seeds),
        to_meta_init=_over_seeds(seeds),
        edits_to_learned={
            edit: _by_protocol({model.seed: model.probe.edits[edit] for model in seeds}, "delta_to_learned")
            for edit in seeds[0].probe.edits
            if edit != LEARNED
        },
        counterpart=run.counterpart,
    )
    if run.counterpart is None:
        return figures
    other, other_gain = _accuracies(models[run.counterpart]), _over_seeds(models[run.counterpart])
    return figures.model_copy(
        update={
            "to_counterpart": {p: _minus(gain.seeds, other_gain[p].seeds) for p, gain in figures.to_meta_init.items()},
            "accuracy_to_counterpart": {p: _minus(values, other[p]) for p, values in figures.accuracy.items()},
            "at_equal_level": {
                p: _at_equal_level(figures.accuracy, gain.seeds, other, other_gain[p].seeds)
                for p, gain in figures.to_meta_init.items()
            },
        }
    )


def compare_with_counterpart(figures: RunFigures, protocol: str) -> tuple[OverSeeds | EqualLevel | None, ...]:
    """Return a run's differences to its counterpart in the order of `COUNTERPART`; None where the result lacks one."""
    levels = figures.accuracy_to_counterpart
    gains = (figures.to_counterpart[protocol], figures.at_equal_level.get(protocol))
    return levels.get(META_INIT.protocol), levels.get(protocol), *gains


def mean_level(figures: RunFigures, protocol: str) -> float | None:
    """Return the mean accuracy of a run's seeds under a protocol; None if the result lacks it."""
    values = figures.accuracy.get(protocol, {}).values()
    return sum(values) / len(values) if values else None


def _accuracies(models: Sequence[MeasuredModel]) -> dict[str, dict[str, float]]:
    """Return the mean accuracy with the learned rates by protocol and seed."""
    found = {META_INIT.protocol: {str(model.seed): model.probe.meta_init.accuracy.mean for model in models}}
    for protocol in _ADAPTED:
        measured = {str(model.seed): _learned(model.probe, protocol) for model in models}
        found[protocol] = {seed: metrics.accuracy.mean for seed, metrics in measured.items() if metrics}
    return found


def _minus(values: Mapping[str, float], others: Mapping[str, float]) -> OverSeeds:
    return combine_seeds({seed: value - others[seed] for seed, value in values.items()})


def _at_equal_level(
    accuracy: Mapping[str, Mapping[str, float]],
    gain: Mapping[str, float],
    other: Mapping[str, Mapping[str, float]],
    other_gain: Mapping[str, float],
) -> EqualLevel | None:
    """Compare the gains of two runs over the seeds of the first one; see `nilr.inference.at_equal_level`."""
    before = META_INIT.protocol
    run = [(accuracy[before][seed], value) for seed, value in gain.items()]
    found = at_equal_level(run, [(other[before][seed], other_gain[seed]) for seed in gain])
    return None if found is None else EqualLevel.model_validate(dataclasses.asdict(found))


def _over_seeds(models: Sequence[MeasuredModel], choice: str | None = None) -> dict[str, OverSeeds]:
    """Return the difference to the meta-initialisation by protocol, with the paper's protocol or another choice."""
    return _by_protocol({model.seed: model.choices[choice] if choice else model.probe for model in models}, "delta")


def _by_protocol(probes: Mapping[int, ModelProbe | EditProbe], which: str) -> dict[str, OverSeeds]:
    found = {}
    for protocol in _ADAPTED:
        deltas = {str(seed): learned_delta(probe, protocol, which) for seed, probe in probes.items()}
        found[protocol] = combine_seeds({seed: delta.mean for seed, delta in deltas.items() if delta is not None})
    return found


def signs(
    algorithms: Mapping[str, str], measured: Mapping[str, Mapping[str, OverSeeds]], *, generated: bool = False
) -> list[Sign]:
    """Return the finding on each of the paper's signs, over seeds; `generated`: whether the images are."""
    return [
        Sign(
            run=run,
            protocol=protocol,
            claimed=1 if claimed > 0 else -1,
            finding="demonstration" if generated else _judge(claimed, found.mean, decided=found.verdict != "undecided"),
            measured=found,
        )
        for run, algorithm in algorithms.items()
        for protocol, claimed in CLAIMS[algorithm].items()
        for found in [measured[run][protocol]]
    ]


def signs_by_choice(
    algorithms: Mapping[str, str], models: Mapping[str, Sequence[MeasuredModel]], *, generated: bool = False
) -> dict[str, list[Sign]]:
    """Return the finding on each of the paper's signs under each other choice of probing."""
    choices = dict.fromkeys(name for run in algorithms for model in models[run] for name in model.choices)
    return {
        name: signs(algorithms, {run: _over_seeds(models[run], name) for run in algorithms}, generated=generated)
        for name in choices
    }


def describe_signs(found: Sequence[Sign]) -> list[str]:
    """Return one sentence for each sign, and a summary with the scope of the intervals."""
    lines = []
    for sign in found:
        measured = sign.measured
        width = "" if measured.ci95 is None else f" ± {100 * measured.ci95:.2f}"
        points = f"{signed(100 * measured.mean)}{width} points over {counted(measured.n_seeds, 'seed')}"
        finding = ", a demonstration" if sign.finding == "demonstration" else f" {sign.finding}"
        lines.append(f"{sign.run} {sign.protocol}: claimed {claim_word(sign.claimed)}{finding}, {points}.")
    if any(sign.finding == "demonstration" for sign in found):
        return [*lines, DEMONSTRATION]
    counts = [f"{sum(sign.finding == word for sign in found)} {word}" for word in get_args(Finding)[:3]]
    few = any(sign.measured.n_seeds < LEAST_SEEDS for sign in found)
    limit = f" Fewer than {LEAST_SEEDS} seeds decide nothing." if few else ""
    scope = " Intervals are over seeds (Student's t, seeds - 1 degrees of freedom), on the test classes of one pack."
    if all(sign.measured.ci95 is None for sign in found):
        scope = ""  # one seed has no interval
    return [*lines, f"The paper's four signs: {', '.join(counts)}.{limit}{scope}"]
