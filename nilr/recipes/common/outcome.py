"""From the beginning of a command to its result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import JsonValue

from nilr.config import MeasuringSettings
from nilr.recipes.common.paths import absolute_paths
from nilr.results.records import DataUsed, ModelUsed
from nilr.results.result import SCHEMA_VERSION, Result
from nilr.runtime import utc_now

M = TypeVar("M")


class Outcome:
    """Takes the time when a command begins, and makes its result when it ends.

    Args:
        command: the command's name.
        settings: the command's.
    """

    def __init__(self, command: str, settings: MeasuringSettings) -> None:
        self.command, self._paths = command, absolute_paths(settings)
        self.started_at = utc_now()
        self._began = time.monotonic()

    def result(
        self,
        metrics: M,
        *,
        config: Mapping[str, JsonValue],
        environment: Mapping[str, JsonValue],
        models: Sequence[ModelUsed] = (),
        data: DataUsed | None = None,
        data_b: DataUsed | None = None,
        per_episode: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> Result[M]:
        """Return the result; see `nilr.results.Result` for its fields."""
        return Result[M](
            schema_=f"nilr/{self.command}/{SCHEMA_VERSION}",
            command=self.command,
            config=dict(config),
            models=list(models),
            data=data,
            data_b=data_b,
            metrics=metrics,
            per_episode=dict(per_episode or {}),
            notes=list(notes),
            paths=self._paths,
            environment=dict(environment),
            started_at=self.started_at,
            duration_seconds=time.monotonic() - self._began,
        )
