"""The layers of a convolutional body, as the explicit engines compute them: a table made from the body's stages.

A layer is one unit, or the end of a residual stage: its last unit and its shortcut, whose sum is activated and pooled.
Planes are numbered: 0 are the images, i + 1 is the output of layer i.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nilr.models.stages import Residual, Stage, Unit


class Row(NamedTuple):
    """A layer: its branches, the plane that each branch reads, and what follows the sum of the branches."""

    branches: tuple[Unit, ...]
    inputs: tuple[int, ...]
    slope: float  # of the activation below zero; 1: no activation
    pool: bool
    stage: str | None  # the stage that ends here, if any


def rows_of(stages: Iterable[Stage]) -> tuple[Row, ...]:
    """Return the layers of the stages, in the order of computation."""
    rows: list[Row] = []
    for stage in stages:
        if isinstance(stage, Residual):
            first = len(rows)
            rows.extend(_unit(unit, first + i, None) for i, unit in enumerate(stage.units[:-1]))
            ends = (stage.units[-1], stage.shortcut)
            rows.append(Row(ends, (len(rows), first), float(stage.slope), stage.pool, stage.name))
        else:
            rows.append(_unit(stage, len(rows), stage.name))
    return tuple(rows)


def kept_planes(rows: tuple[Row, ...]) -> Iterator[set[int]]:
    """Yield for each layer the planes that later layers read."""
    for i in range(len(rows)):
        yield {plane for row in rows[i + 1 :] for plane in row.inputs}


class KeptNumbers(NamedTuple):
    """How many numbers the passes keep for an image. The positions of pooled values count as two numbers each."""

    forward: int
    made_again: int  # of those, outputs that a pass without a Hessian frees
    backward: int  # in addition
    tangent: int  # the tangent's forward pass
    largest: int  # a plane


def kept_numbers(rows: Iterable[Row], height: int, width: int) -> KeptNumbers:
    """Return how many numbers the passes keep for an image."""
    sizes, forward, made_again, backward, tangent, largest = [(height, width)], 0, 0, 0, 0, 0
    for row in rows:
        h, w = sizes[row.inputs[0]]
        sizes.append((h // 2, w // 2) if row.pool else (h, w))
        channels, n = row.branches[0].out_channels, len(row.branches)
        full, output = channels * h * w, channels * sizes[-1][0] * sizes[-1][1]
        pooled = n * output if row.pool else 0
        forward += n * full + output + pooled + (2 * output if row.pool else 0)
        made_again += 0 if row.pool else output
        backward += output + full * sum(plane > 0 for plane in row.inputs)
        tangent += n * full + output + pooled
        largest = max(largest, full)
    return KeptNumbers(forward, made_again, backward, tangent, largest)


def _unit(unit: Unit, plane: int, stage: str | None) -> Row:
    return Row((unit,), (plane,), 1.0 if unit.slope is None else float(unit.slope), unit.pool, stage)
