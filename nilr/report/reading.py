"""Result files, read with suspicion: anybody may have written them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from nilr.commands import result_types
from nilr.errors import ResultError, invalid_field
from nilr.files import storage_error
from nilr.results.result import SCHEMA_VERSION

DRAWN = ("probe", "rates", "meta-train", "reproduce")

_HINT = "give the results of `nilr probe` and `nilr rates`: every such command names its result file"


@dataclass(frozen=True)
class Source:
    """A result file.

    Attributes:
        name: the file's base name.
        sha256: of its bytes.
        command: whose result it is.
        result: its JSON, checked against the command's schema.
    """

    name: str
    sha256: str
    command: str
    result: dict[str, Any]


def read_result(path: Path) -> Source:
    """Read and check one result file.

    Raises:
        StoreError: it cannot be read.
        ResultError: it is no result, one of a newer nilr, damaged, or one of which nothing can be drawn.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise storage_error(path, error, "read") from error
    result = _object(path, content)
    command = _command(path, result.get("schema"))
    _check(path, command, result)
    return Source(printable(path.name), hashlib.sha256(content).hexdigest(), command, _cleaned(result))


def _object(path: Path, content: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    try:
        result = json.loads(content.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ResultError(f"`{path}` is no JSON: {error}", hint=_HINT) from error
    if not isinstance(result, dict):
        raise ResultError(f"`{path}` is no result of nilr: it holds no JSON object", hint=_HINT)
    return result


def _command(path: Path, schema: object) -> str:
    found = re.fullmatch(r"nilr/([a-z-]+)/(\d{1,9})", schema) if isinstance(schema, str) else None
    if found is None:
        raise ResultError(f"`{path}` is no result of nilr: its `schema` is not nilr/COMMAND/VERSION", hint=_HINT)
    command, version = found[1], int(found[2])
    if version > SCHEMA_VERSION:
        raise ResultError(
            f"`{path}` was written by a newer nilr: its schema is {schema}, and this nilr reads version "
            f"{SCHEMA_VERSION}",
            hint="update nilr",
        )
    if command not in DRAWN:
        raise ResultError(f"`{path}` is a result of `nilr {command}`, of which a report draws nothing", hint=_HINT)
    return command


def _check(path: Path, command: str, result: dict[str, Any]) -> None:
    """Refuse what does not fit the schema; fields beyond it may come from a later nilr and are left alone."""
    kind = result_types().get(command)
    if kind is None:
        return
    try:
        kind.model_validate(result)
    except ValidationError as error:
        reason = invalid_field(error, ignore="extra_forbidden")
        if reason:
            raise ResultError(
                f"`{path}` is not a valid {result['schema']}: {reason}",
                hint="is the file complete? make it again with the command's --json",
            ) from error


def printable(text: str) -> str:
    """Return the text with every character that is none written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _cleaned(value: Any) -> Any:  # noqa: ANN401 - JSON of any shape
    """Return the same JSON with nothing in its text that breaks a line, a page or a terminal."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _cleaned(item) for key, item in value.items()}
    return value
