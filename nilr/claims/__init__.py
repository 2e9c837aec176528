"""The four signs that the paper claims, and what probes and experiments find of them.

Starshak (Negative Inner-Loop Learning Rates Learn Universal Features, 2022) claims signs of the change in
nearest-neighbour accuracy from the meta-initialisation to the adapted parameters: MAML gains on the same task and loses
on another task; Meta-SGD loses on the same task and gains on another task.

The four signs with the default choices are the primary family. An experiment confirms or refutes a sign if its p is
below 0.05 after Holm's correction for the four, with at least three seeds (`nilr.claims.over_seeds`). Else the 90 %
interval may exclude an effect of the smallest size of interest; otherwise the sign is undecided. All other tests are
exploratory. A probe's findings are over the episodes of its models. Generated images decide nothing: there a finding is
a demonstration.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from nilr.checkpoint import TrainedOn
from nilr.claims.over_seeds import adjusted, direction, is_negligible
from nilr.config.base import SYNTHETIC
from nilr.inference import LEAST_SEEDS
from nilr.meta.algorithms import Algorithm
from nilr.meta.inner_lr import FIXED_SIGNS, bounds
from nilr.probes.edits import LEARNED
from nilr.results.probe import EditProbe, ModelProbe, ProbeMetrics, ProbeSign, ProtocolMetrics
from nilr.results.records import DataUsed, Delta, Finding, ModelUsed
from nilr.results.reproduce import OverSeeds, Sign
from nilr.words import counted, number, signed

# algorithm -> protocol -> the sign of the claimed change
CLAIMS: dict[str, dict[str, int]] = {
    "maml": {"same-task": 1, "cross-task": -1},
    "metasgd": {"same-task": -1, "cross-task": 1},
}
DEMONSTRATION = "A demonstration: the images are generated, so this decides nothing about the paper's four signs."


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
    return (algorithm.fixed_rate or 0) > 0


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
    metrics = learned(probe, protocol)
    return None if metrics is None else getattr(metrics, which)


def learned(probe: ModelProbe | EditProbe, protocol: str) -> ProtocolMetrics | None:
    """Return the metrics under a protocol; of a model, those with its learned rates."""
    # a probe with one edit, the learned rates, has no `edits`
    learned = probe.edits.get(LEARNED, probe) if isinstance(probe, ModelProbe) else probe
    return learned.same_task if protocol == "same-task" else learned.cross_task


def with_signs(claims: Mapping[str, Mapping[str, int]], metrics: ProbeMetrics) -> ProbeMetrics:
    """Return what a probe measured with its finding on each of the paper's signs, over episodes.

    Args:
        claims: the signs that are claimed of each model, by protocol.
        metrics: what the probe measured.
    """
    return {
        name: model.model_copy(update={"signs": _found(claims.get(name, {}), model)}) for name, model in metrics.items()
    }


def _found(claims: Mapping[str, int], model: ModelProbe) -> dict[str, ProbeSign]:
    return {
        protocol: ProbeSign(claimed=1 if claimed > 0 else -1, finding=_judge_delta(delta, claimed))
        for protocol, claimed in claims.items()
        if (delta := learned_delta(model, protocol)) is not None
    }


def describe_probe(claims: Mapping[str, Mapping[str, int]], metrics: ProbeMetrics, data: DataUsed | None = None) -> str:
    """Return the last line of a probe: what its findings on the paper's signs are about.

    Args:
        claims: the signs that are claimed of each model, by protocol.
        metrics: what the probe measured.
        data: the evaluated pack.
    """
    if is_generated(data):
        return DEMONSTRATION
    if not any(_found(signs, metrics[name]) for name, signs in claims.items()):
        return (
            "This probe measured none of the paper's four signs, which are about maml with one positive rate, and "
            "metasgd whose rates may change their signs, same-task and cross-task."
        )
    others = [name for name, signs in claims.items() if not signs]
    unclaimed = f" The paper claims no sign of {', '.join(others)}." if others else ""
    scope = "are over episodes, for these models and classes only."
    if next(iter(metrics.values())).meta_init.accuracy.n_episodes == 1:
        scope = "need more than one episode."
    return f"Findings on the paper's signs {scope}{unclaimed}"


def _judge_delta(delta: Delta, claimed: int) -> Finding:
    return _judge(claimed, delta.mean, decided=delta.ci95 is not None and abs(delta.mean) > delta.ci95)


def signs(
    algorithms: Mapping[str, str],
    measured: Mapping[str, Mapping[str, OverSeeds]],
    *,
    smallest_effect: float,
    generated: bool = False,
) -> list[Sign]:
    """Return the finding on each of the paper's signs, corrected for their number.

    Args:
        algorithms: the algorithm of each claimed run.
        measured: the difference to the meta-initialisation of each run, by protocol.
        smallest_effect: the smallest effect of interest, a fraction.
        generated: whether the images are.
    """
    found = adjusted(unjudged_signs(algorithms, measured))
    findings = ["demonstration" if generated else _finding(sign, smallest_effect) for sign in found]
    return [sign.model_copy(update={"finding": f}) for sign, f in zip(found, findings, strict=True)]


def unjudged_signs(algorithms: Mapping[str, str], measured: Mapping[str, Mapping[str, OverSeeds]]) -> list[Sign]:
    """Return the paper's signs with what is measured of them, as exploratory ones."""
    return [
        Sign(
            run=run,
            protocol=protocol,
            claimed=1 if claimed > 0 else -1,
            finding="exploratory",
            measured=measured[run][protocol],
        )
        for run, algorithm in algorithms.items()
        for protocol, claimed in CLAIMS[algorithm].items()
    ]


def _finding(sign: Sign, smallest_effect: float) -> Finding:
    finding = _judge(sign.claimed, sign.measured.mean, decided=direction(sign.measured) != 0)
    return "equivalent" if finding == "undecided" and is_negligible(sign.measured, smallest_effect) else finding


def describe_signs(found: Sequence[Sign], smallest_effect: float) -> list[str]:
    """Return one sentence for each sign, and a summary with the scope of the intervals."""
    lines = [_describe_sign(sign) for sign in found]
    if any(sign.finding == "demonstration" for sign in found):
        return [*lines, DEMONSTRATION]
    counts = [f"{sum(sign.finding == word for sign in found)} {word}" for word in get_args(Finding)[:4]]
    few = any(sign.measured.n_seeds < LEAST_SEEDS for sign in found)
    limit = f" Fewer than {LEAST_SEEDS} seeds decide nothing." if few else ""
    scope = (
        " p is corrected for these signs after Holm. Equivalent: an effect of "
        f"{number(100 * smallest_effect, 2)} points or more is excluded. "
        + (
            "The first interval is for new seeds and new classes (crossed random effects), the second for new seeds."
            if all(sign.measured.new_classes for sign in found)
            else "Intervals are over seeds (Student's t, seeds - 1 degrees of freedom), on the same test classes."
        )
    )
    if all(sign.measured.ci95 is None for sign in found):
        scope = ""  # one seed has no interval
    return [*lines, f"The paper's four signs: {', '.join(counts)}.{limit}{scope}"]


def _describe_sign(sign: Sign) -> str:
    measured, finding = sign.measured, f" {sign.finding}"
    width = "" if measured.ci95 is None else f" ± {100 * measured.ci95:.2f}"
    seeds = counted(measured.n_seeds, "seed")
    if (classes := measured.new_classes) is not None:
        width, seeds = (
            f" ± {100 * classes.ci95:.2f} (new seeds alone{width})",
            f"{seeds} and {classes.n_classes} classes",
        )
    points = f"{signed(100 * measured.mean)}{width} points over {seeds}"
    if sign.finding == "demonstration":
        finding = ", a demonstration"
    elif measured.p_holm is not None:
        points += f", p {number(measured.p_holm, 2)}"
    return f"{sign.run} {sign.protocol}: claimed {claim_word(sign.claimed)}{finding}, {points}."
