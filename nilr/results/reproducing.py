"""What `nilr reproduce` concludes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from nilr.results.records import Record

Finding = Literal["confirmed", "refuted", "undecided"]


class OverSeeds(Record):
    """A difference over training runs that are alike but for their seed, in fractions of accuracy.

    Each seed's mean counts once, whatever its number of episodes; `ci95` is half the 95 % t interval with n_seeds - 1
    degrees of freedom, null for one seed, as are `spread`, the standard deviation between seeds, and p. `verdict` is
    positive or negative where the interval leaves out zero, else undecided; always undecided under three seeds.
    """

    mean: FiniteFloat
    ci95: FiniteFloat | None
    spread: FiniteFloat | None
    p: FiniteFloat | None
    n_seeds: int
    verdict: Literal["positive", "negative", "undecided"]
    seeds: dict[str, FiniteFloat]


class Sign(Record):
    """One of the paper's four signs: what it claims of the difference to meta-init, and what was found."""

    run: str
    protocol: str
    claimed: Literal[1, -1]
    finding: Finding
    measured: OverSeeds


class RunFigures(Record):
    """One run over seeds: differences to meta-init, and of each edit of the rates to the learned ones.

    `to_counterpart` is by how much more its models gain over meta-init than those of the run `counterpart` of the same
    seeds, on the same episodes.
    """

    why: str
    models: list[str]
    share_negative: dict[str, FiniteFloat] = Field(default_factory=dict)
    to_meta_init: dict[str, OverSeeds]
    edits_to_learned: dict[str, dict[str, OverSeeds]] = Field(default_factory=dict)
    counterpart: str | None = None
    to_counterpart: dict[str, OverSeeds] = Field(default_factory=dict)


class ReproduceMetrics(Record):
    """`nilr reproduce`. `files` are the results that it is made of, in the experiment's folder.

    `choices` has the same signs, as they are found with one choice of probing or of training made otherwise.
    """

    signs: list[Sign]
    choices: dict[str, list[Sign]] = Field(default_factory=dict)
    runs: dict[str, RunFigures]
    files: list[str]
