"""Classification by labelled neighbours in feature space: support features -> a score for each class.

The literature uses different rules. `nearest` is the literal nearest neighbour; `class-mean` the nearest class mean
(Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, 2017; also BOIL's code); `attention` is that of
Matching Networks (Vinyals et al., 2016), which the NIL test of Raghu et al. (2020) uses. With one support image per
class, the first two are equal.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

Distance = Literal["cosine", "euclidean"]


def similarity(query: Tensor, support: Tensor, distance: Distance) -> Tensor:
    """Return the similarity (q, s) of query features (q, D) and support features (s, D).

    That is the cosine, 0 for a zero vector, or minus the squared Euclidean distance.
    """
    if distance == "cosine":
        return normalize(query, dim=1) @ normalize(support, dim=1).T
    return -(query[:, None] - support[None]).square().sum(-1)


def nearest(query: Tensor, support: Tensor, labels: Tensor, n_way: int, distance: Distance) -> Tensor:
    """Score each class by its nearest support feature: (q, N). On a tie, argmax returns the smaller label."""
    near = similarity(query, support, distance)
    of_class = labels[None, :] == torch.arange(n_way, device=labels.device)[:, None]
    return near[:, None, :].masked_fill(~of_class[None], -torch.inf).amax(-1)


def class_mean(query: Tensor, support: Tensor, labels: Tensor, n_way: int, distance: Distance) -> Tensor:
    """Score each class by the mean of its support features: (q, N)."""
    votes = one_hot(labels, n_way).to(support.dtype)
    return similarity(query, (votes.T @ support) / votes.sum(0)[:, None], distance)


def attention(query: Tensor, support: Tensor, labels: Tensor, n_way: int, distance: Distance) -> Tensor:
    """Score each class by the softmax of the similarities over all support features: (q, N)."""
    votes = one_hot(labels, n_way).to(support.dtype)
    return similarity(query, support, distance).softmax(-1) @ votes


Rule = Callable[[Tensor, Tensor, Tensor, int, Distance], Tensor]

RULES: dict[str, Rule] = {"nearest": nearest, "class-mean": class_mean, "attention": attention}
