"""The table of algorithms. An algorithm is data: one `adapt` and one outer step serve all rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from nilr.errors import UnknownNameError
from nilr.models.learner import kind, part


@dataclass(frozen=True)
class Algorithm:
    """What the inner loop moves, how its gradient is taken, and where its rates come from.

    Attributes:
        name: its name on the command line.
        moves: the part of the learner that the inner loop moves.
        norm_adapted: whether norm scale and shift move with it.
        order: 2, the exact meta-gradient; 1, inner gradients taken as constants.
        rates: "fixed", one number for all; or learned: one per parameter "element", per "tensor", or a single "scalar".
        inner_steps: gradient steps in training.
        eval_inner_steps: gradient steps in validation and judging.
        inner_lr_init: the fixed rate, or where learned rates start (see `initial_rates`).
        paper: authors, title, year.
        per_step: whether each of the `inner_steps` has rates of its own; later steps take the last one's.
        constraint: where learned rates are kept: "free", "non-negative" or "bounded:LOW,HIGH".
        rectified: whether the inner loop takes max(0, r) of a learned number r (see `nilr.meta.inner_lr`).
    """

    name: str
    moves: Literal["all", "body", "head"]
    norm_adapted: bool
    order: Literal[1, 2]
    rates: Literal["fixed", "element", "tensor", "scalar"]
    inner_steps: int
    eval_inner_steps: int
    inner_lr_init: str
    paper: str
    per_step: bool = False
    constraint: str = "free"
    rectified: bool = False

    @property
    def learns_rates(self) -> bool:
        """Whether the rates are learned together with the meta-initialisation."""
        return self.rates != "fixed"

    def moved(self, names: Iterable[str]) -> list[str]:
        """Return those of the parameter names that the inner loop moves."""
        return [name for name in names if self._moves(name)]

    def _moves(self, name: str) -> bool:
        in_part = self.moves in ("all", part(name))
        return in_part and (self.norm_adapted or not kind(name).startswith("norm"))


_FINN = "Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017"
_LI = "Li, Zhou, Chen, Li: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017"
_RAGHU = "Raghu, Raghu, Bengio, Vinyals: Rapid Learning or Feature Reuse?, 2020"
_OH = "Oh, Yoo, Kim, Yun: BOIL: Towards Representation Change for Few-shot Learning, 2021"
_ANTONIOU = "Antoniou, Edwards, Storkey: How to train your MAML, 2019"
_OSWALD = (
    "von Oswald, Zhao, Kobayashi, Schug, Caccia, Zucchet, Sacramento: "
    "Learning where to learn: Gradient sparsity in meta and continual learning, 2021"
)

ALGORITHMS: dict[str, Algorithm] = {
    row.name: row
    for row in (
        #         name           moves   norm   order rates      steps eval rate                  paper
        Algorithm("maml",        "all",  False, 2,    "fixed",   5,    10,  "0.05",               _FINN),
        Algorithm("fomaml",      "all",  False, 1,    "fixed",   5,    10,  "0.05",               _FINN),
        Algorithm("metasgd",     "all",  True,  2,    "element", 1,    1,   "uniform:0.005,0.1",  _LI),
        Algorithm("anil",        "head", False, 2,    "fixed",   5,    10,  "0.05",               _RAGHU),
        Algorithm("boil",        "body", True,  2,    "fixed",   1,    1,   "0.5",                _OH),
        Algorithm("lslr",        "all",  False, 2,    "tensor",  5,    5,   "0.01",               _ANTONIOU,
                  per_step=True),
        Algorithm("sparse-maml", "all",  True,  1,    "element", 35,   35,  "0.05",               _OSWALD,
                  rectified=True),
    )
}  # fmt: skip


def find_algorithm(name: str) -> Algorithm:
    """Return the row of that name.

    Raises:
        UnknownNameError: there is none; the known ones are listed.
    """
    if name not in ALGORITHMS:
        raise UnknownNameError("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
