"""Result files, which may come from anybody: everything in them is checked."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from pydantic import ValidationError

from nilr.errors import ResultError, invalid_field
from nilr.files import storage_error
from nilr.results.commands import TrainMetrics
from nilr.results.probe import ProbeMetrics, RatesMetrics
from nilr.results.question import describe_question
from nilr.results.reproduce import ReproduceMetrics
from nilr.results.result import SCHEMA_VERSION, Result
from nilr.words import printable

RESULTS: dict[str, type[Result[Any]]] = {
    "probe": Result[ProbeMetrics],
    "rates": Result[RatesMetrics],
    "meta-train": Result[TrainMetrics],
    "reproduce": Result[ReproduceMetrics],
}

_HINT = "give result files of `probe` and `rates`: both commands print the path of their result"

M = TypeVar("M")


@dataclass(frozen=True)
class Source(Generic[M]):
    """A result file."""

    name: str  # the file's base name
    sha256: str  # of its bytes
    command: str  # from its schema
    result: Result[M]  # its content


def read_result(path: Path) -> Source[Any]:
    """Read and check one result file. Unknown fields, from a later nilr, are ignored.

    Raises:
        StoreError: the file cannot be read.
        ResultError: it is not a result, is damaged, is from a newer nilr, or holds nothing that a report shows.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise storage_error(path, error, "read") from error
    content = _parse(path, raw)
    command = _command(path, content.get("schema"))
    try:
        result = RESULTS[command].model_validate(_printable(content), extra="ignore")
    except ValidationError as error:
        raise ResultError(
            f"`{path}` is not a valid {content['schema']}: {invalid_field(error)}",
            hint="check that the file is complete, or write it again with the command's --json",
        ) from error
    try:
        result = with_question(result)
    except (TypeError, ValueError) as error:
        raise ResultError(f"`{path}` has a setting of a wrong type in its config: {error}", hint=_HINT) from error
    return Source(printable(path.name), hashlib.sha256(raw).hexdigest(), command, result)


def with_question(result: Result[Any]) -> Result[Any]:
    """Return a result with the question of a probe, computed from its settings if an earlier nilr wrote it.

    Raises:
        TypeError, ValueError: a setting is of a wrong type.
    """
    if result.command != "probe" or result.question is not None:
        return result
    question = describe_question(result.config, result.models, result.data, result.data_b)
    return result.model_copy(update={"question": question})


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not allowed in JSON")

    try:
        content = json.loads(raw.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ResultError(f"`{path}` is not valid JSON: {error}", hint=_HINT) from error
    if not isinstance(content, dict):
        raise ResultError(f"`{path}` is not a result of nilr: it is not a JSON object", hint=_HINT)
    return content


def _command(path: Path, schema: object) -> str:
    found = re.fullmatch(r"nilr/([a-z-]+)/(\d{1,9})", schema) if isinstance(schema, str) else None
    if found is None:
        raise ResultError(f"`{path}` is not a result of nilr: its `schema` is not nilr/COMMAND/VERSION", hint=_HINT)
    command, version = found[1], int(found[2])
    if version > SCHEMA_VERSION:
        raise ResultError(
            f"`{path}` was written by a newer nilr: its schema is {schema}, and this nilr reads up to version "
            f"{SCHEMA_VERSION}",
            hint="update nilr",
        )
    if command not in RESULTS:
        raise ResultError(f"`{path}` is a result of `{command}`, which reports do not show", hint=_HINT)
    return command


def _printable(value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    """Return the same JSON without characters that break a line, a page or a terminal."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _printable(item) for key, item in value.items()}
    return value
