"""The runs of an experiment over their seeds: differences to meta-init, of edits, and to their counterparts."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nilr.claims import learned, learned_delta, unjudged_signs
from nilr.claims.over_seeds import Drawn, EpisodeValues, adjusted, combine_seeds, minus
from nilr.config.base import ADAPTED
from nilr.config.experiments import Run
from nilr.inference import at_equal_level
from nilr.probes.conditions import META_INIT
from nilr.probes.edits import LEARNED
from nilr.results.probe import ModelProbe, ModelRates
from nilr.results.reproduce import EqualLevel, OverSeeds, RunFigures, Sign

# of the differences between two runs: accuracy before and after adaptation, and what adaptation changes
COUNTERPART = ("before", "after", "gain", "gain at equal level")
EXPLORATORY = (
    "Only the four signs under the default choices are decided. All other tables are exploratory; * marks p below 0.05 "
    "after Holm's correction for its table. Their intervals are for new seeds and classes where episodes are known."
)
GAIN_CAUTION = (
    "A gain depends on the level before adaptation, so compare the levels after it. The gain at equal level is from an "
    "analysis of covariance over seeds; it extrapolates where the levels of two runs do not overlap."
)


@dataclass(frozen=True)
class MeasuredModel:
    """What an experiment has measured of one trained model."""

    seed: int  # of its training
    model: str  # its name
    probe: ModelProbe  # with the protocol of the paper
    rates: ModelRates  # its learned rates
    # its probes under other choices, by the choice's name
    choices: Mapping[str, ModelProbe] = field(default_factory=dict)
    # the values of the episodes of `probe` and of each choice, by "probe" or the choice's name
    episodes: Mapping[str, EpisodeValues | None] = field(default_factory=dict)


def run_figures(run: Run, models: Mapping[str, Sequence[MeasuredModel]]) -> RunFigures:
    """Return the differences of one run, over its seeds."""
    seeds = models[run.name]
    figures = RunFigures(
        why=run.why,
        models=[model.model for model in seeds],
        share_negative={str(model.seed): model.rates.all.share_negative for model in seeds},
        accuracy=_accuracies(seeds),
        to_meta_init=_over_seeds(seeds),
        edits_to_learned={edit: _over_seeds(seeds, edit=edit) for edit in seeds[0].probe.edits if edit != LEARNED},
        counterpart=run.counterpart,
    )
    if run.counterpart is None:
        return figures
    pairs = _pairs(seeds, models[run.counterpart])
    other, other_gain = _accuracies(models[run.counterpart]), _over_seeds(models[run.counterpart])
    return figures.model_copy(
        update={
            "to_counterpart": {
                p: combine_seeds(_minus(gain.seeds, other_gain[p].seeds), [_gain(*pair, p) for pair in pairs], p)
                for p, gain in figures.to_meta_init.items()
            },
            "accuracy_to_counterpart": {
                p: combine_seeds(_minus(values, other[p]), [_level(*pair, p) for pair in pairs], p)
                for p, values in figures.accuracy.items()
            },
            "at_equal_level": {
                p: _at_equal_level(figures.accuracy, gain.seeds, other, other_gain[p].seeds)
                for p, gain in figures.to_meta_init.items()
            },
        }
    )


def correct_exploratory(runs: Mapping[str, RunFigures], findings: Sequence[Sign]) -> dict[str, RunFigures]:
    """Return the runs with every p adjusted within its table: those of controls, of edits, and of comparisons.

    A claimed run's differences to meta-init have the p of the primary family, that of the `findings`.
    """
    primary = {(sign.run, sign.protocol): sign.measured for sign in findings}
    claimed = {run for run, _ in primary}
    controls = adjusted({name: run.to_meta_init for name, run in runs.items() if name not in claimed})
    edits = adjusted({name: run.edits_to_learned for name, run in runs.items()})
    fields = ("to_counterpart", "accuracy_to_counterpart", "at_equal_level")
    compared = adjusted({name: {field: getattr(run, field) for field in fields} for name, run in runs.items()})

    def to_meta_init(name: str, run: RunFigures) -> dict[str, OverSeeds]:
        return controls.get(name) or {p: primary.get((name, p), found) for p, found in run.to_meta_init.items()}

    return {
        name: run.model_copy(
            update={"to_meta_init": to_meta_init(name, run), "edits_to_learned": edits[name], **compared[name]}
        )
        for name, run in runs.items()
    }


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
    for protocol in ADAPTED:
        measured = {str(model.seed): learned(model.probe, protocol) for model in models}
        found[protocol] = {seed: metrics.accuracy.mean for seed, metrics in measured.items() if metrics}
    return found


def _minus(values: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
    return {seed: value - others[seed] for seed, value in values.items()}


Pair = tuple[EpisodeValues | None, EpisodeValues | None]


def _pairs(models: Sequence[MeasuredModel], others: Sequence[MeasuredModel]) -> list[Pair]:
    """Return the episodes of two runs, seed by seed of the first one."""
    of_seed = {model.seed: model.episodes.get("probe") for model in others}
    return [(model.episodes.get("probe"), of_seed[model.seed]) for model in models]


def _gain(values: EpisodeValues | None, others: EpisodeValues | None, protocol: str) -> Drawn:
    return minus(values.delta(protocol), others.delta(protocol)) if values and others else None


def _level(values: EpisodeValues | None, others: EpisodeValues | None, protocol: str) -> Drawn:
    return minus(values.level(protocol), others.level(protocol)) if values and others else None


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


def _over_seeds(
    models: Sequence[MeasuredModel], *, choice: str | None = None, edit: str = LEARNED
) -> dict[str, OverSeeds]:
    """Return the difference to the meta-initialisation by protocol; of an edit of the rates, that to the learned ones.

    Args:
        models: the seeds of a run.
        choice: of probing; None: the paper's.
        edit: of the rates.
    """
    which = "delta" if edit == LEARNED else "delta_to_learned"
    probes = {str(model.seed): model.choices[choice] if choice else model.probe for model in models}
    episodes = [model.episodes.get(choice or "probe") for model in models]
    found: dict[str, OverSeeds] = {}
    for protocol in ADAPTED:
        measured = {seed: probe if edit == LEARNED else probe.edits[edit] for seed, probe in probes.items()}
        deltas = {seed: learned_delta(probe, protocol, which) for seed, probe in measured.items()}
        means = {seed: delta.mean for seed, delta in deltas.items() if delta is not None}
        drawn = [values.delta(protocol, edit) if values else None for values in episodes]
        found[protocol] = combine_seeds(means, drawn, protocol)
    return found


def signs_by_choice(
    algorithms: Mapping[str, str], models: Mapping[str, Sequence[MeasuredModel]]
) -> dict[str, list[Sign]]:
    """Return what is measured of the paper's signs under each other choice of probing."""
    choices = dict.fromkeys(name for run in algorithms for model in models[run] for name in model.choices)
    return {
        name: unjudged_signs(algorithms, {run: _over_seeds(models[run], choice=name) for run in algorithms})
        for name in choices
    }
