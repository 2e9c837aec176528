"""The metrics of `nilr reproduce`."""

from typing import Literal

from pydantic import Field, FiniteFloat

from nilr.results.records import Record

# "demonstration": on generated images, which decide nothing about the paper's claim
Finding = Literal["confirmed", "refuted", "undecided", "demonstration"]


class OverSeeds(Record):
    """A difference over trainings that differ only in their seed, in fractions of accuracy.

    Each seed's mean has the same weight. `ci95` is half the width of the 95 % t interval with n_seeds - 1 degrees of
    freedom, `spread` the standard deviation between seeds, p that of the t-test; null for one seed. `verdict` is
    positive or negative if the interval excludes zero and there are at least three seeds, else undecided.
    """

    mean: FiniteFloat
    ci95: FiniteFloat | None
    spread: FiniteFloat | None
    p: FiniteFloat | None
    n_seeds: int
    verdict: Literal["positive", "negative", "undecided"]
    seeds: dict[str, FiniteFloat]


class Sign(Record):
    """One of the paper's four signs: the claimed sign of the difference to meta-init, and the finding."""

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

    `choices` has the findings on the same signs if one choice of probing or training is made differently; `grids` the
    rate grids.
    """

    signs: list[Sign]
    choices: dict[str, list[Sign]] = Field(default_factory=dict)
    runs: dict[str, RunFigures]
    grids: dict[str, RateGrid] = Field(default_factory=dict)
    files: list[str]
