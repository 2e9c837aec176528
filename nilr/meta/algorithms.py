"""The table of algorithms. An algorithm is data: one `adapt` and one outer step serve all rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nilr.errors import UnknownNameError, UsageError
from nilr.models.learner import kind, part


@dataclass(frozen=True)
class Algorithm:
    """What the inner loop moves, how its gradient is taken, and where its rates come from.

    Attributes:
        name: its name on the command line.
        moves: the part of the learner that the inner loop moves.
        norm_adapted: whether norm scale and shift move with it.
        order: 2, the exact meta-gradient; 1, inner gradients taken as constants.
        rates: "fixed", one number for all; "element", learned, one per parameter element.
        inner_steps: gradient steps in training.
        eval_inner_steps: gradient steps in validation and judging.
        inner_lr_init: the fixed rate, or where learned rates start (see `initial_rates`).
        paper: authors, title, year.
    """

    name: str
    moves: Literal["all", "body", "head"]
    norm_adapted: bool
    order: Literal[1, 2]
    rates: Literal["fixed", "element"]
    inner_steps: int
    eval_inner_steps: int
    inner_lr_init: str
    paper: str

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

ALGORITHMS: dict[str, Algorithm] = {
    row.name: row
    for row in (
        #         name       moves   norm   order rates      steps eval rate                  paper
        Algorithm("maml",    "all",  False, 2,    "fixed",   5,    10,  "0.05",               _FINN),
        Algorithm("fomaml",  "all",  False, 1,    "fixed",   5,    10,  "0.05",               _FINN),
        Algorithm("metasgd", "all",  True,  2,    "element", 1,    1,   "uniform:0.005,0.1",  _LI),
        Algorithm("anil",    "head", False, 2,    "fixed",   5,    10,  "0.05",               _RAGHU),
        Algorithm("boil",    "body", True,  2,    "fixed",   1,    1,   "0.5",                _OH),
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


def initial_rates(algorithm: Algorithm, params: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return the inner rates that a run starts from.

    `inner_lr_init` is a number; `uniform:LOW,HIGH`, one draw for all; or `uniform-each:LOW,HIGH`, one per element.

    Args:
        algorithm: the row; it says which parameters move and at what grain.
        params: the learner's parameters by name.
        seed: seed of the draw.

    Returns:
        For every name that moves a tensor of shape () (fixed) or of the parameter's shape (element).

    Raises:
        UsageError: `inner_lr_init` is not one of these forms.
    """
    form, low, high = _parse_init(algorithm.inner_lr_init)
    if form == "uniform-each" and not algorithm.learns_rates:
        raise UsageError(f"`{algorithm.name}` has one fixed rate, and `{algorithm.inner_lr_init}` draws many")
    generator = torch.Generator().manual_seed(seed)
    shared = low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()
    rates = {}
    for name in algorithm.moved(params):
        value = params[name]
        shape = value.shape if algorithm.rates == "element" else torch.Size(())
        rate = torch.full(shape, shared, dtype=value.dtype)
        if form == "uniform-each":
            rate.uniform_(low, high, generator=generator)
        rates[name] = rate.to(value.device)
    return rates


def _parse_init(text: str) -> tuple[str, float, float]:
    form, _, numbers = text.rpartition(":")
    try:
        if form in ("uniform", "uniform-each"):
            low, high = (float(number) for number in numbers.split(","))
            if not -math.inf < low <= high < math.inf:
                raise ValueError
            return form, low, high
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"`{text}` is no initial inner rate",
            hint="give a number, uniform:LOW,HIGH or uniform-each:LOW,HIGH",
        ) from None
    return "number", value, value
