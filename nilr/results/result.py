"""The result as a whole, and its JSON."""

import json
import re
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field, FiniteFloat, JsonValue

from nilr.files import write_atomically
from nilr.results.records import DataUsed, ModelUsed, Overlap, Record

SCHEMA_VERSION = 1
M = TypeVar("M")


class Result(Record, Generic[M]):
    """What a command measured.

    Attributes:
        config: the resolved settings; a path is given by its last part.
        data_b: the pack that a probe evaluated on, if that is not `data`.
        overlaps: what the evaluated splits, `a`, share with other packs that the models were trained on or adapted to.
        question: of a probe: what its settings change of the default, in words; results of different questions must
            not be averaged.
        paths: absolute paths, only with `--record-paths`.
    """

    schema_: str = Field(alias="schema")
    command: str
    config: dict[str, JsonValue]
    models: list[ModelUsed] = Field(default_factory=list)
    data: DataUsed | None = None
    data_b: DataUsed | None = None
    overlaps: list[Overlap] = Field(default_factory=list)
    question: str | None = None
    metrics: M
    per_episode: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    paths: dict[str, JsonValue] = Field(default_factory=dict)
    environment: dict[str, JsonValue]
    started_at: str
    duration_seconds: FiniteFloat

    def __repr__(self) -> str:
        of = f", {', '.join(self.metrics)}" if isinstance(self.metrics, dict) else ""
        return f"Result({self.command}{of}, {self.question or self.started_at})"

    __str__ = __repr__


def to_json(result: Result[Any]) -> str:
    """Return a result as JSON text; ValueError if it contains NaN or infinity."""
    text = json.dumps(result.model_dump(), allow_nan=False, ensure_ascii=False, indent=2)
    # Python keeps a byte of a file's name that is not UTF-8 as a lone surrogate; a pack escapes it in the same way.
    return re.sub("[\ud800-\udfff]", lambda surrogate: f"\\\\u{ord(surrogate[0]):04x}", text)


def write_result(path: Path, result: Result[Any]) -> None:
    """Write a result as a JSON file, whole or not at all.

    Raises:
        ValueError: it contains NaN or infinity.
        StoreError: the file cannot be written.
    """
    write_atomically(path, to_json(result).encode() + b"\n")
