"""The table of architectures."""

from __future__ import annotations

from typing import Protocol

import torch

from nilr.errors import UnknownNameError
from nilr.models.conv4 import build_conv4
from nilr.models.learner import Body, Learner, initialise


class BodyBuilder(Protocol):
    """Builds a body and says how long its feature vectors are."""

    def __call__(self, *, image_size: int, filters: int) -> tuple[Body, int]:
        """Return the body and D."""


BODIES: dict[str, BodyBuilder] = {
    "conv4": build_conv4,
}


def build_learner(arch: str, *, n_way: int, image_size: int, filters: int, seed: int = 0) -> Learner:
    """Build a freshly initialised learner.

    Args:
        arch: a name in `BODIES`.
        n_way: classes the head tells apart.
        image_size: height and width of the images, in pixels.
        filters: channels of each convolution.
        seed: seed of the initial weights.

    Raises:
        UnknownNameError: no such architecture.
        EpisodeError: the images are too small for it.
    """
    learner = _build(arch, n_way=n_way, image_size=image_size, filters=filters)
    initialise(learner, torch.Generator().manual_seed(seed))
    return learner


def parameter_shapes(arch: str, *, n_way: int, image_size: int, filters: int) -> dict[str, torch.Size]:
    """Return the shapes of a learner's parameters, by name, without taking memory for them; see `build_learner`."""
    with torch.device("meta"):
        learner = _build(arch, n_way=n_way, image_size=image_size, filters=filters)
    return {name: value.shape for name, value in learner.named_parameters()}


def _build(arch: str, *, n_way: int, image_size: int, filters: int) -> Learner:
    if arch not in BODIES:
        raise UnknownNameError("architecture", arch, BODIES)
    body, feature_dim = BODIES[arch](image_size=image_size, filters=filters)
    return Learner(body, feature_dim, n_way)
