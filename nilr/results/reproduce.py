"""The metrics of `nilr reproduce`."""

from typing import Literal

from pydantic import Field, FiniteFloat

from nilr.results.records import Finding, Record


class VarianceComponents(Record):
    """The components of variance of one episode's difference; see `nilr.inference.crossed`."""

    seed: FiniteFloat
    classes: FiniteFloat
    seed_class: FiniteFloat
    episode: FiniteFloat
    residual: FiniteFloat


class NewClasses(Record):
    """A difference for new seeds, new classes and new episodes, by crossed random effects.

    `error` is its standard error, `freedom` the degrees of freedom of its t intervals, `ci95` and `ci90` are half their
    widths, and `p` is that of the test against zero.
    """

    mean: FiniteFloat
    error: FiniteFloat
    freedom: FiniteFloat
    ci95: FiniteFloat
    ci90: FiniteFloat
    p: FiniteFloat | None
    n_classes: int
    n_episodes: int
    components: VarianceComponents


class OverSeeds(Record):
    """A difference over trainings that differ only in their seed, in fractions of accuracy.

    Each seed's mean has the same weight. `ci95` is half the width of the 95 % t interval with n_seeds - 1 degrees of
    freedom, `spread` the standard deviation between seeds, p that of the t-test; null for one seed. `verdict` is
    positive or negative if the interval excludes zero and there are at least three seeds, else undecided. These are for
    new seeds on the same classes. `new_classes` is for new classes too, and then decides; null if it is unknown.
    `p_holm` is the p that decides, adjusted for all tests in the same table.
    """

    mean: FiniteFloat
    ci95: FiniteFloat | None
    spread: FiniteFloat | None
    p: FiniteFloat | None
    n_seeds: int
    verdict: Literal["positive", "negative", "undecided"]
    seeds: dict[str, FiniteFloat]
    ci90: FiniteFloat | None = None
    new_classes: NewClasses | None = None
    p_holm: FiniteFloat | None = None


class Sign(Record):
    """One of the paper's four signs: the claimed sign of the difference to meta-init, and the finding.

    It is confirmed or refuted if `measured.p_holm`, adjusted for the four signs, is below 0.05. Else it is equivalent
    if the 90 % interval lies within plus and minus the smallest effect of interest, and otherwise undecided.
    """

    run: str
    protocol: str
    claimed: Literal[1, -1]
    finding: Finding
    measured: OverSeeds


class EqualLevel(Record):
    """The difference of two runs' gains at equal level before, by analysis of covariance over seeds.

    The gain changes with the level before by `slope`, the same in both runs. Half widths are of 95 % t intervals with
    the number of models - 3 degrees of freedom.
    """

    mean: FiniteFloat
    ci95: FiniteFloat
    p: FiniteFloat | None
    slope: FiniteFloat
    slope_ci95: FiniteFloat
    verdict: Literal["positive", "negative", "undecided"]
    p_holm: FiniteFloat | None = None


class RunFigures(Record):
    """One run over seeds: accuracies, differences to meta-init, and of each edit of the rates to the learned rates.

    `to_counterpart` is its difference to meta-init minus that of the run `counterpart`, on the same seeds and episodes.
    That gain depends on the level before: `accuracy_to_counterpart` has the differences before (`meta-init`) and after
    adaptation, `at_equal_level` the difference of the gains at equal level, null with fewer than three seeds.
    """

    why: str
    models: list[str]
    share_negative: dict[str, FiniteFloat] = Field(default_factory=dict)
    # mean accuracy by protocol and seed
    accuracy: dict[str, dict[str, FiniteFloat]] = Field(default_factory=dict)
    to_meta_init: dict[str, OverSeeds]
    edits_to_learned: dict[str, dict[str, OverSeeds]] = Field(default_factory=dict)
    counterpart: str | None = None
    to_counterpart: dict[str, OverSeeds] = Field(default_factory=dict)
    accuracy_to_counterpart: dict[str, OverSeeds] = Field(default_factory=dict)
    at_equal_level: dict[str, EqualLevel | None] = Field(default_factory=dict)


class GridCell(Record):
    """One reading of models trained at one rate and adapted with another: accuracy by seed, difference to meta-init."""

    training_rate: FiniteFloat
    adaptation_rate: FiniteFloat
    accuracy: dict[str, FiniteFloat]
    to_meta_init: OverSeeds


class GridOptimum(Record):
    """The cell with the highest mean accuracy over seeds, and the rates of each seed's own best cell over seeds."""

    training_rate: FiniteFloat
    adaptation_rate: FiniteFloat
    accuracy: OverSeeds
    training_rates: OverSeeds
    adaptation_rates: OverSeeds


class RateGrid(Record):
    """MAML trained at several rates, each adapted with several rates.

    `cells` and `optimum` are by reading: features on the same and on another task, and the model's own head.
    `validation` has the best accuracy in validation, which adapts with the training rate, by that rate and seed.
    """

    cells: dict[str, list[GridCell]]
    optimum: dict[str, GridOptimum]
    validation: dict[str, dict[str, FiniteFloat]] = Field(default_factory=dict)


class ReproduceMetrics(Record):
    """`nilr reproduce`. `files` are the results that it is made from, in the experiment's folder.

    `choices` has the same signs if one choice of probing or training is made differently. `choices`, the edits and the
    comparisons of runs are exploratory; each of these tables has its own Holm correction. `smallest_effect` is the
    smallest effect of interest, a fraction; null in results of earlier versions. `design` is the share by which the
    standard error of the four signs shrinks, on average, with one more seed, twice the classes and twice the episodes.
    `grids` are the rate grids.
    """

    signs: list[Sign]
    smallest_effect: FiniteFloat | None = None
    design: dict[str, FiniteFloat] = Field(default_factory=dict)
    choices: dict[str, list[Sign]] = Field(default_factory=dict)
    runs: dict[str, RunFigures]
    grids: dict[str, RateGrid] = Field(default_factory=dict)
    files: list[str]
