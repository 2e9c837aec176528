"""The table of bodies, and learners built from it or from an import path."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from nilr.errors import UnknownNameError
from nilr.models.bodies import conv4, conv4_leaky, conv6, resnet12
from nilr.models.import_path import build_imported, is_import_path
from nilr.models.learner import Body, Learner


class BodyRow(NamedTuple):
    """A body's builder, and the names of its own arguments, which are also those of settings.

    The builder also takes `image_size` and `channels` (3 by default), and returns the body and D, the length of a
    feature vector.
    """

    build: Callable[..., tuple[Body, int]]
    arguments: tuple[str, ...]


BODIES = {
    "conv4": BodyRow(conv4, ("filters",)),
    "conv4-leaky": BodyRow(conv4_leaky, ("filters",)),
    "conv6": BodyRow(conv6, ("filters",)),
    "resnet12": BodyRow(resnet12, ("widths",)),
}


def find_body(arch: str) -> BodyRow:
    """Return the row of that name; UnknownNameError if there is no such architecture.

    An import path has the row of a body without arguments of its own. Building it imports and runs that code.
    """
    if is_import_path(arch):
        return BodyRow(partial(build_imported, arch), ())
    if arch not in BODIES:
        raise UnknownNameError("architecture", arch, [*BODIES, "PACKAGE.MODULE:FUNCTION"])
    return BODIES[arch]


def body_arguments(arch: str, settings: object) -> dict[str, Any]:
    """Return the values of the body's own arguments, from the attributes of `settings`."""
    return {name: getattr(settings, name) for name in find_body(arch).arguments}


def image_arguments(image_size: int, channels: int) -> dict[str, int]:
    """Return the arguments of every body that describe its images; 3 channels are the default and left out."""
    return {"image_size": image_size} | ({} if channels == 3 else {"channels": channels})


def arguments_of_others(arch: str) -> set[str]:
    """Return the names of the arguments that only other bodies have."""
    return {name for row in BODIES.values() for name in row.arguments} - set(find_body(arch).arguments)


def build_learner(arch: str, *, n_way: int, image_size: int, seed: int = 0, **arguments: Any) -> Learner:  # noqa: ANN401
    """Return an initialised learner: the body `arch` for square images of `image_size` pixels, with its arguments.

    Raises:
        UnknownNameError: there is no such architecture.
        TypeError: an argument is missing, or the body has no such argument.
        ValueError: an argument is invalid.
        EpisodeError: the images are too small for the body.
        ModuleError: one's own body is invalid, or cannot be imported.
    """
    seeded = {"seed": seed} if is_import_path(arch) else {}
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights, which `initialise` replaces
        learner = Learner(*find_body(arch).build(image_size=image_size, **arguments, **seeded), n_way)
    learner.initialise(torch.Generator().manual_seed(seed))
    return learner


def parameter_shapes(arch: str, *, n_way: int, image_size: int, **arguments: Any) -> dict[str, torch.Size]:  # noqa: ANN401
    """Return the shapes of a learner's parameters, by name; see `build_learner`. Built-in bodies need no memory."""
    with contextlib.nullcontext() if is_import_path(arch) else torch.device("meta"):
        learner = Learner(*find_body(arch).build(image_size=image_size, **arguments), n_way)
    return {name: value.shape for name, value in learner.named_parameters()}
