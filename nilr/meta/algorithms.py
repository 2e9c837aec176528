"""The table of algorithms. An algorithm is data: one inner loop and one outer step serve all rows. Imports no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nilr.errors import UnknownNameError
from nilr.models.parameters import Kind, part


@dataclass(frozen=True)
class Algorithm:
    """What the inner loop moves, the order of the meta-gradient, and where the inner rates come from."""

    name: str
    moves: Literal["all", "body", "head"]  # the part of the learner that the inner loop moves
    norm_adapted: bool  # whether the inner loop also moves norm scale and shift
    order: Literal[1, 2]  # 2: the exact meta-gradient; 1: inner gradients are constants
    # "fixed", one given number; or learned rates: one per "element", one per "tensor", or a single "scalar"
    grain: Literal["fixed", "element", "tensor", "scalar"]
    inner_steps: int  # gradient steps in training; `eval_inner_steps` in validation and evaluation
    eval_inner_steps: int
    inner_lr_init: str  # the fixed rate, or the initial learned rates (see `nilr.meta.inner_lr.initial_rates`)
    paper: str
    per_step: bool = False  # whether each of the `inner_steps` has its own rates; later steps use those of the last one
    constraint: str = "free"  # on learned rates: "free", "non-negative", "fixed-signs" or "bounded:LOW,HIGH"
    rectified: bool = False  # whether the inner loop uses max(0, r) of a learned number r (see `nilr.meta.inner_lr`)

    @property
    def learns_rates(self) -> bool:
        """Whether the rates are learned together with the meta-initialisation."""
        return self.grain != "fixed"

    @property
    def fixed_rate(self) -> float | None:
        """The one fixed rate; None if rates are learned, drawn, or those of another model."""
        if self.learns_rates:
            return None
        try:
            return float(self.inner_lr_init)
        except ValueError:
            return None

    def moved(self, kinds: Mapping[str, Kind]) -> list[str]:
        """Return the names of the parameters that the inner loop moves, from the kinds of all parameters by name."""
        return [
            name
            for name, kind in kinds.items()
            if self.moves in ("all", part(name)) and (self.norm_adapted or not kind.startswith("norm"))
        ]

    def to_stored(self) -> dict[str, Any]:
        """Return the row as checkpoints store it; there the grain is called `rates`."""
        return {"rates" if name == "grain" else name: value for name, value in asdict(self).items()}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "Algorithm":
        """Return the row that `to_stored` returned; values are not checked.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**{"grain" if name == "rates" else name: value for name, value in stored.items()})


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
        #         name           moves   norm   order grain      steps eval rate                  paper
        Algorithm("maml",        "all",  False, 2,    "fixed",   5,    10,  "0.05",               _FINN),
        Algorithm("fomaml",      "all",  False, 1,    "fixed",   5,    10,  "0.05",               _FINN),
        Algorithm("metasgd",     "all",  True,  2,    "element", 1,    1,   "uniform:0.005,0.1",  _LI),
        Algorithm("fometasgd",   "all",  True,  1,    "element", 1,    1,   "uniform:0.005,0.1",  _LI),
        Algorithm("anil",        "head", False, 2,    "fixed",   5,    10,  "0.05",               _RAGHU),
        Algorithm("boil",        "body", True,  2,    "fixed",   1,    1,   "0.5",                _OH),
        Algorithm("lslr",        "all",  False, 2,    "tensor",  5,    5,   "0.01",               _ANTONIOU,
                  per_step=True),
        Algorithm("sparse-maml", "all",  True,  1,    "element", 35,   35,  "0.05",               _OSWALD,
                  rectified=True),
    )
}  # fmt: skip


def find_algorithm(name: str) -> Algorithm:
    """Return the row of that name; UnknownNameError if there is no such algorithm; the error lists the known ones."""
    if name not in ALGORITHMS:
        raise UnknownNameError("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
