"""The history of a training: a JSON line per logged update, per validation and for an error that ended it."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nilr.checkpoint import Manifest
from nilr.config.models import ModelStatus
from nilr.errors import CheckpointError, invalid_field
from nilr.files import storage_error, write_atomically
from nilr.results.records import Mean
from nilr.store import HISTORY, LAST, holds_model

_LONGEST_LINE = 2**20
_LONGEST_FAILURE = 2**14


class Line(BaseModel):
    """The fields of a line that are read again."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    outer_step: Annotated[int, Field(ge=0)]
    outer_steps: Annotated[int, Field(ge=0)] | None = None
    query_loss: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    share_negative: float | None = None
    share_negative_by_layer: dict[str, float] | None = None
    val_accuracy: Mean | None = None
    skipped: str | None = None
    failed: str | None = None


def check_history(path: Path) -> None:
    """Check that a history is a regular file or missing: a link may lead anywhere, and a pipe may block forever."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise CheckpointError(f"`{path}` is not a regular file", hint="remove it")


def read_history(path: Path) -> Iterator[Line]:
    """Yield the lines of a history. A truncated final line is skipped."""
    check_history(path)
    number = 0
    try:
        with path.open("rb") as file:
            while (text := file.readline(_LONGEST_LINE)) and (text.endswith(b"\n") or len(text) == _LONGEST_LINE):
                number += 1
                yield Line.model_validate_json(text)
    except OSError as error:
        raise CheckpointError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from error
    except ValidationError as error:
        raise CheckpointError(f"`{path}`, line {number}: {invalid_field(error)}") from error


class TrainingStatus(NamedTuple):
    """How a training stands, and the error that ended it."""

    status: ModelStatus
    problem: str | None = None


def training_status(
    directory: Path | None, outer_step: int, outer_steps: int | None, *, running: bool = False
) -> TrainingStatus:
    """Return the status of a training.

    Args:
        directory: of the model; None for a checkpoint outside of one.
        outer_step: completed updates.
        outer_steps: all updates; None if the model has no training of its own.
        running: whether a process is working on it.
    """
    if running:
        return TrainingStatus("running")
    problem = None if directory is None else find_failure(directory)
    if directory is not None and not holds_model(directory):
        return TrainingStatus("unsaved", problem)
    if problem is not None:
        return TrainingStatus("failed", problem)
    return TrainingStatus("finished" if outer_steps is None or outer_step >= outer_steps else "interrupted")


def planned_updates(manifest: Manifest) -> int | None:
    """Return how many updates a model's training has in total; None for an adapted model, or if it is unknown."""
    total = manifest.settings.get("outer_steps") if manifest.parent is None else None
    return total if isinstance(total, int) else None


def completed_updates(directory: Path, newest: Manifest) -> int:
    """Return how many updates a model was trained for, from its newest checkpoint.

    Training continues after the best checkpoint. If only that one is kept, the number is in the history.
    """
    steps = [newest.outer_step]
    if not (directory / LAST).exists():
        with contextlib.suppress(CheckpointError):
            steps += [line.outer_step for line in read_history(directory / HISTORY)]
    return max(steps)


def find_failure(directory: Path) -> str | None:
    """Return the error that ended a model's training, from the last line of its history; None if there is none."""
    path = directory / HISTORY
    with contextlib.suppress(CheckpointError, OSError, ValidationError):
        check_history(path)
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LONGEST_FAILURE))
            *_, last, _unfinished = b"", *file.read().split(b"\n")
        return Line.model_validate_json(last).failed
    return None


class History:
    """Writes the history of a model; without a directory it writes nothing."""

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / HISTORY

    def clear(self) -> None:
        """Remove the history of a training that was killed before its first save."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def trim(self, *, outer_step: int, validated_at: int, outer_steps: int) -> None:
        """Remove the lines that a resumed training writes again, and a truncated line; update the total number.

        The line of an error is removed too.
        """
        if self._path is None:
            return
        check_history(self._path)
        if not self._path.exists():
            return
        kept = []
        for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
                step = int(line["outer_step"])
            except (ValueError, KeyError, TypeError):
                continue
            if line.get("outer_steps", outer_steps) != outer_steps:
                text = json.dumps(line | {"outer_steps": outer_steps})
            repeated = step > outer_step or ("val_accuracy" in line and validated_at < step)
            if not repeated and "failed" not in line:
                kept.append(text + "\n")
        write_atomically(self._path, "".join(kept).encode())

    def append(self, line: Mapping[str, Any]) -> None:
        """Append one line; StoreError if the file cannot be written."""
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as history:
                history.write(json.dumps(line) + "\n")
        except OSError as error:
            raise storage_error(self._path, error) from error
