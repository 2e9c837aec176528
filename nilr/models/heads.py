"""Heads to adapt from: the trained one, also for another number of classes, or one that favours no class.

`rows` takes the trained rows in turn. `mean` repeats their mean (Ye, Chao: How to Train Your MAML to Excel in Few-Shot
Classification, 2022), `zeros` starts at zero (Kao et al.: MAML is a Noisy Contrastive Learner in Classification, 2022).
From equal rows, as in the last two, the first inner step moves the head alone: the residuals of an image sum to zero.
A number that is added to all rows changes no probability and no gradient, so these two adapt alike.
"""

from typing import Literal

import torch
from torch import Tensor

from nilr.models.learner import Params, Tensors

HeadChoice = Literal["rows", "mean", "zeros"]


def resize_head(params: Tensors, inner_lr: Tensors, n_way: int, choice: HeadChoice = "rows") -> tuple[Params, Params]:
    """Return the parameters and the inner rates of a model with a head for `n_way` classes.

    Learned rates of single rows follow the same rule; with `zeros` they are the mean of the trained ones.
    """
    new, rates = dict(params), dict(inner_lr)
    for name in ("head.weight", "head.bias"):
        dims = params[name].dim()
        new[name] = _resized(params[name], 0, n_way, choice)
        if choice == "zeros":
            new[name] = torch.zeros_like(new[name])
        if name in rates:
            rates[name] = _resized(rates[name], rates[name].dim() - dims, n_way, choice)
    return new, rates


def _resized(value: Tensor, dim: int, n_way: int, choice: HeadChoice) -> Tensor:
    """Resize the dimension of the classes; a value that all classes share stays."""
    if dim < 0 or value.shape[dim] == 1:
        return value
    if choice == "rows":
        return value.index_select(dim, torch.arange(n_way, device=value.device) % value.shape[dim])
    return value.mean(dim, keepdim=True).repeat_interleave(n_way, dim)
