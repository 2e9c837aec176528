"""The training state, `training.safetensors`: everything that a resumed training continues from.

A training state may come from anyone, so its values are checked as well as its SHA-256.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from nilr.config.meta_train import TrainSettings
from nilr.errors import CheckpointError, invalid_field
from nilr.files import write_atomically
from nilr.results.records import Mean, Reference
from nilr.tensorfile import DAMAGED, parse, read, serialize

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "nilr/training-state"

_Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
_Figure = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Best(Mean):
    outer_step: _Count


def _checked_by(validate: Callable[[dict[str, Any]], object]) -> AfterValidator:
    """Return a validator that checks a dictionary and leaves it as it is."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        try:
            validate(value)
        except ValidationError as error:
            raise ValueError(invalid_field(error)) from None
        return value

    return AfterValidator(check)


def _checked_as(model: type[BaseModel]) -> AfterValidator:
    return _checked_by(lambda value: model.model_validate(value, strict=True))


@dataclass(frozen=True)
class Progress:
    """The progress of a training."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    outer_step: _Count = 0  # completed updates, including the skipped ones
    # outer step of the last validation; -1 before the first
    validated_at: Annotated[int, Field(strict=True, ge=-1)] = -1
    best: Annotated[dict[str, Any], _checked_as(_Best)] | None = None  # outer step and accuracy of the best validation
    last_val: Annotated[dict[str, Any], _checked_as(Mean)] | None = None  # accuracy of the last validation
    logged: dict[str, _Figure | None] = dataclasses.field(default_factory=dict)  # the figures of the last logged update
    skipped: _Count = 0  # updates that were skipped because a number was not finite
    skipped_in_a_row: _Count = 0  # the number of skipped updates since the last successful one

    def finished(self, settings: TrainSettings) -> bool:
        """Return whether no update and no validation remains."""
        validated = not settings.eval_every or self.validated_at >= self.outer_step
        return self.outer_step >= settings.outer_steps and validated


class TrainingState(BaseModel):
    """The values of a training state, beside the tensors of the outer loop."""

    # the resolved settings, without paths
    settings: Annotated[dict[str, JsonValue], _checked_by(TrainSettings.from_stored)]
    data: str | None = None  # name of the pack
    data_digest: str  # digest of the pack
    progress: Progress  # of the training
    reference: Reference | None = None  # the model whose rates the training used, if any


def save_training_state(path: Path, tensors: Mapping[str, Tensor], state: TrainingState) -> None:
    """Write a training state atomically, after reading it back in memory."""
    content = serialize(FORMAT, {"values": state.model_dump(mode="json")}, tensors)
    parse(path, content, FORMAT)
    write_atomically(path, content)


def load_training_state(path: Path) -> tuple[dict[str, Tensor], TrainingState]:
    """Load a training state, with its tensors on the CPU, and check all of it."""
    document, tensors = read(path, FORMAT)
    try:
        return tensors, TrainingState.model_validate(document.get("values"))
    except (ValidationError, RecursionError) as error:
        reason = f": {invalid_field(error)}" if isinstance(error, ValidationError) else ""
        raise CheckpointError(f"`{path}` is not a valid training state{reason}", hint=DAMAGED) from error
