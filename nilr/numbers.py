"""Numbers that users give, as values of float32 tensors."""

from typing import Final

_LARGEST: Final = (2 - 2**-23) * 2.0**127


def is_float32(number: float) -> bool:
    """Return whether float32 holds a number: it is finite, and at most 3.4e38 in size."""
    return abs(number) <= _LARGEST
