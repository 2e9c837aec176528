"""The linear head under a mean cross-entropy as plain tensor functions: forward, backward, and their tangent.

Notation: features f (n, D), weight w (N, D), bias b (N,), logits l = f w' + b, probabilities p = softmax(l), loss
-mean log p[label]. d is the gradient of the loss, a suffix _t a tangent. Every tensor may have a leading G: so many
episodes, each under parameters of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class HeadParams(NamedTuple):
    """Weight (N, D) and bias (N,)."""

    weight: Tensor
    bias: Tensor


class HeadKept(NamedTuple):
    """What the tangent needs: features, probabilities, and the gradient in the logits."""

    features: Tensor
    probabilities: Tensor
    dlogits: Tensor


def loss_and_gradient(
    features: Tensor, labels: Tensor, params: HeadParams
) -> tuple[Tensor, Tensor, Tensor, HeadParams, HeadKept]:
    """Return loss, logits, the gradients in features and parameters, and what the tangent needs.

    dl = (p - onehot) / n; dw = dl' f; db = sum dl; df = dl w.
    """
    logits = features @ params.weight.mT + params.bias.unsqueeze(-2)
    log_p = logits.log_softmax(-1)
    loss = -log_p.gather(-1, labels[..., None]).squeeze(-1).mean(-1)
    p = log_p.exp()
    of_label = labels[..., None] == torch.arange(p.shape[-1], device=labels.device)
    dlogits = (p - of_label.to(p.dtype)) / labels.shape[-1]
    gradient = HeadParams(dlogits.mT @ features, dlogits.sum(-2))
    return loss, logits, dlogits @ params.weight, gradient, HeadKept(features, p, dlogits)


def gradient_tangent(
    features_t: Tensor | None, kept: HeadKept, params: HeadParams, params_t: HeadParams
) -> tuple[Tensor, HeadParams]:
    """Return the tangents of the gradients in features and in parameters.

    l_t = f_t w' + f w_t' + b_t; dl_t = p (l_t - sum p l_t) / n; then the product rule.
    """
    logits_t = kept.features @ params_t.weight.mT + params_t.bias.unsqueeze(-2)
    if features_t is not None:
        logits_t = logits_t + features_t @ params.weight.mT
    p = kept.probabilities
    dlogits_t = p * (logits_t - (p * logits_t).sum(-1, keepdim=True)) / p.shape[-2]
    dweight_t = dlogits_t.mT @ kept.features
    if features_t is not None:
        dweight_t = dweight_t + kept.dlogits.mT @ features_t
    dfeatures_t = dlogits_t @ params.weight + kept.dlogits @ params_t.weight
    return dfeatures_t, HeadParams(dweight_t, dlogits_t.sum(-2))
