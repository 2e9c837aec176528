"""What a learner's parameters are: their part, their layer and their kind. Imports no torch.

Names are `body.<layer>.<module>.<parameter>`, of any depth, `head.weight` and `head.bias`. Kinds come from module
types, see `nilr.models.learner.Learner.kinds`.
"""

from typing import Literal

Kind = Literal["convolution weight", "norm scale", "norm shift", "other weight", "bias", "head weight", "head bias"]


def part(name: str) -> Literal["body", "head"]:
    """Return the part of the learner that a parameter belongs to."""
    return "head" if name.startswith("head.") else "body"


def layer(name: str) -> str:
    """Return the layer that a parameter belongs to: `block1`, ..., `head`."""
    return name.removeprefix("body.").split(".")[0]
