"""What changes over a training: Adam's rate, and what the query losses after each inner step weigh."""

from __future__ import annotations

import math
from typing import Literal

OuterLRSchedule = Literal["constant", "cosine"]

# In the published code, 15 epochs of 500 updates out of 100, and 3 % of an even share from then on until they end.
_MULTI_STEP_SHARE, _LEAST_SHARE = 0.15, 0.03


def cosine(outer_step: int, outer_steps: int) -> float:
    """Return the factor on Adam's rate: half a cosine, from 1 at the first update to what would be 0 after the last.

    Loshchilov, Hutter: SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, without restarts; in MAML:
    Antoniou, Edwards, Storkey: How to train your MAML, 2019.

    Args:
        outer_step: updates completed so far.
        outer_steps: updates of the whole run.
    """
    return (1 + math.cos(math.pi * outer_step / outer_steps)) / 2


def multi_step_weights(outer_step: int, outer_steps: int, inner_steps: int) -> tuple[float, ...] | None:
    """Return the weights of the query losses after inner steps 1 to K; None when the last one alone counts.

    All begin at 1/K. Over the first 15 % of the run those before the last fall in a straight line, to no less than
    0.03/K, and the last takes up what they lose; after that they are dropped (Antoniou, Edwards, Storkey: How to train
    your MAML, 2019; the numbers are those of its code, which goes down once an epoch and not at every update).

    Args:
        outer_step: updates completed so far.
        outer_steps: updates of the whole run.
        inner_steps: K.
    """
    progress = outer_step / (_MULTI_STEP_SHARE * outer_steps)
    if progress >= 1:
        return None
    earlier = max(1 - progress, _LEAST_SHARE) / inner_steps
    return (*(earlier,) * (inner_steps - 1), 1 - (inner_steps - 1) * earlier)
