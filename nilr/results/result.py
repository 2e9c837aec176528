"""The result as a whole, as JSON and as a JSON Schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue

from nilr.files import write_atomically
from nilr.results.benching import BenchMetrics
from nilr.results.importing import ImportMetrics
from nilr.results.making import AdaptMetrics, PrepareDataMetrics, TrainMetrics
from nilr.results.probing import ProbeMetrics, RatesMetrics
from nilr.results.records import DataUsed, ModelUsed
from nilr.results.reproducing import ReproduceMetrics

SCHEMA_VERSION = 1
M = TypeVar("M")


class Result(BaseModel, Generic[M]):
    """What a command measured. `config` is resolved; names stand for paths, but in `paths` (--record-paths).

    `data_b` is the pack that a probe judged on, where that is another one than `data`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    schema_: str = Field(alias="schema")
    command: str
    config: dict[str, JsonValue]
    models: list[ModelUsed] = Field(default_factory=list)
    data: DataUsed | None = None
    data_b: DataUsed | None = None
    metrics: M
    per_episode: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    paths: dict[str, JsonValue] = Field(default_factory=dict)
    environment: dict[str, JsonValue]
    started_at: str
    duration_seconds: FiniteFloat


def to_json(result: Result[Any]) -> str:
    """Return a result as JSON text.

    Raises:
        ValueError: somewhere in it stands NaN or infinity.
    """
    text = json.dumps(result.model_dump(), allow_nan=False, ensure_ascii=False, indent=2)
    # A byte of a file's name that is no UTF-8 is half a surrogate in Python, and stands in a pack as it does here.
    return re.sub("[\ud800-\udfff]", lambda half: f"\\\\u{ord(half[0]):04x}", text)


def write_result(path: Path, result: Result[Any]) -> None:
    """Write a result as a JSON file, whole or not at all.

    Raises:
        ValueError: somewhere in it stands NaN or infinity.
        StoreError: the place cannot be written.
    """
    write_atomically(path, to_json(result).encode() + b"\n")


def result_types() -> dict[str, type[Result[Any]]]:
    """Return the type of every command's result, by command."""
    return {
        "prepare-data": Result[PrepareDataMetrics],
        "meta-train": Result[TrainMetrics],
        "adapt": Result[AdaptMetrics],
        "probe": Result[ProbeMetrics],
        "rates": Result[RatesMetrics],
        "bench": Result[BenchMetrics],
        "reproduce": Result[ReproduceMetrics],
        "models-import": Result[ImportMetrics],
    }


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of every command's result, by command."""
    return {command: _schema(command, result) for command, result in result_types().items()}


def write_schemas(directory: Path) -> None:
    """Write every schema as `<command>-<version>.json`."""
    for command, schema in schemas().items():
        text = json.dumps(schema, indent=2, sort_keys=True) + "\n"
        write_atomically(directory / f"{command}-{SCHEMA_VERSION}.json", text.encode())


def _schema(command: str, result: type[Result[Any]]) -> dict[str, Any]:
    schema = result.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"nilr/{command}/{SCHEMA_VERSION}"
    schema["properties"]["schema"]["const"] = schema["title"]
    schema["properties"]["command"]["const"] = command
    return schema
