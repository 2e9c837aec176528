"""How far a training has come."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far a training has come; all of it is in the training state.

    Attributes:
        outer_step: completed updates.
        validated_at: outer step of the last validation; -1 before the first.
        best: outer step and accuracy of the best validation.
        last_val: accuracy of the last validation.
        logged: the figures of the last logged update.
        skipped: updates left out since a number was not finite.
        skipped_in_a_row: of them, those at the end.
    """

    outer_step: int = 0
    validated_at: int = -1
    best: dict[str, Any] | None = None
    last_val: dict[str, Any] | None = None
    logged: dict[str, float | None] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    skipped_in_a_row: int = 0
