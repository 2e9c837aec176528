"""How far a training has come, and the reading of its state, with suspicion: a seal says nothing of who set it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from nilr.checkpoint import load_training_state
from nilr.config import TrainSettings
from nilr.errors import CheckpointError
from nilr.results.records import Mean
from nilr.tensorfile import DAMAGED

if TYPE_CHECKING:
    from torch import Tensor

_Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
_Figure = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Best(Mean):
    outer_step: _Count


def _best(value: dict[str, Any]) -> dict[str, Any]:
    _Best.model_validate(value, strict=True)
    return value


def _mean(value: dict[str, Any]) -> dict[str, Any]:
    Mean.model_validate(value, strict=True)
    return value


def _settings(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    TrainSettings.model_validate({n: field for n, field in value.items() if n in TrainSettings.model_fields})
    return value


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

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    outer_step: _Count = 0
    validated_at: Annotated[int, Field(strict=True, ge=-1)] = -1
    best: Annotated[dict[str, Any], AfterValidator(_best)] | None = None
    last_val: Annotated[dict[str, Any], AfterValidator(_mean)] | None = None
    logged: dict[str, _Figure | None] = dataclasses.field(default_factory=dict)
    skipped: _Count = 0
    skipped_in_a_row: _Count = 0

    def finished(self, settings: TrainSettings) -> bool:
        """Tell whether no update and no validation is left."""
        validated = not settings.eval_every or self.validated_at >= self.outer_step
        return self.outer_step >= settings.outer_steps and validated


class _Values(BaseModel):
    settings: Annotated[dict[str, JsonValue], AfterValidator(_settings)]
    data: str | None = None
    data_digest: str
    progress: Progress


def progress_of(path: Path) -> Progress:
    """Return how far the training of a state has come.

    Raises:
        CheckpointError: as `read_training_state`.
    """
    return _Values.model_validate(read_training_state(path)[1]).progress


def read_training_state(path: Path) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
    """Read a training state, and check that its values are what a training goes on from.

    Raises:
        CheckpointError: there is none, or it is foreign, newer, truncated or damaged.
    """
    tensors, values = load_training_state(path)
    try:
        _Values.model_validate(values)
    except (ValidationError, RecursionError) as error:
        why = ""
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f": {'.'.join(str(part) for part in first['loc'])}: {first['msg'].lower()}"
        raise CheckpointError(f"`{path}` is no state of a training{why}", hint=DAMAGED) from error
    return tensors, values
