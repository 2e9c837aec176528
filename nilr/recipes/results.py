"""Results of the store: list, show, remove and export them. Nothing here imports torch."""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from nilr.commands import COMMANDS, result_types
from nilr.config.results import ResultExportSettings, ResultListSettings, ResultRemoveSettings, ResultSettings
from nilr.errors import NilrError, ResultError, StoreError, UsageError, invalid_field
from nilr.files import check_free, check_output, storage_error, write_output
from nilr.reporting import Reporter
from nilr.results.records import Record
from nilr.results.result import SCHEMA_VERSION, Result
from nilr.results.tidy import Row, episode_rows, summary_rows
from nilr.store import Store
from nilr.words import counted, one_of, some

_NAME = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-(.+)-[0-9a-f]{12}")
_KINDS = sorted({command.schema for command in COMMANDS}, key=len, reverse=True)
_HEAD = 2**16  # bytes at the start of a file that contain the names of its models


class ResultRow(Record):
    """One result in a list: what its file's name and first bytes say."""

    name: str
    command: str
    question: str | None = None  # of a probe, as in the file's name
    models: list[str] = Field(default_factory=list)
    saved_at: str | None = None  # UTC
    bytes: int


@dataclass(frozen=True)
class ExportedTables:
    """The files that were written, with their numbers of rows, and results that have no tables."""

    rows: dict[str, int]
    left_out: list[str]


def list_results(settings: ResultListSettings, reporter: Reporter) -> list[ResultRow]:
    """Return the newest results, the newest one first; reads only the beginning of each file."""
    store = Store(settings.home)
    files = _find(settings, store)
    if not files:
        reporter.note(_none_yet(store))
    rows: list[ResultRow] = []
    for file in sorted(files, key=lambda file: file.name, reverse=True):
        if settings.kind not in (None, _kind(file) or "unknown"):
            continue
        row = _row(file)
        if settings.uses and settings.uses not in row.models:
            continue
        rows.append(row)
        if len(rows) == settings.limit:
            break
    if files and not rows:
        kinds = sorted({_kind(file) or "unknown" for file in files})
        reporter.note(f"no result matches; kind: {', '.join(kinds)}")
    return rows


def show_result(settings: ResultSettings, reporter: Reporter) -> list[Result[Any]]:
    """Return the results that are named, by default the newest one."""
    files = _require(settings, Store(settings.home))
    return [read_any(file) for file in (files if settings.results else files[-1:])]


def remove_results(settings: ResultRemoveSettings, reporter: Reporter) -> Sequence[str]:
    """Remove results, and return their names."""
    store = Store(settings.home)
    if not settings.results:
        hint = f"name one or more; `{store.command('results', 'ls')}` lists them"
        raise UsageError("no result is named", hint=hint)
    files = store.find_results(map(str, settings.results))
    for file in files:
        file.unlink(missing_ok=True)
    return [file.stem for file in files]


def export_results(settings: ResultExportSettings, reporter: Reporter) -> ExportedTables:
    """Write the summary and the episodes of results as two tables."""
    files = _require(settings, Store(settings.home))
    output, form = _output(settings)
    places = {part: output.with_name(f"{output.name}-{part}.{form}") for part in ("summary", "episodes")}
    for place in places.values():
        check_output(place, "--output")
        check_free(place, "--output", force=settings.force)
    summary: list[Row] = []
    episodes: list[Row] = []
    left_out = []
    reporter.stage("export", len(files), unit="results")
    for file in files:
        reporter.advance()
        if _kind(file) not in ("probe", "rates", None):
            left_out.append(file.stem)
            continue
        result = read_any(file)
        figures = summary_rows(result)
        if figures is None:
            left_out.append(file.stem)
            continue
        models = {model.name: model for model in result.models}
        summary += [{"result": file.stem, **row, **_origin(result, models.get(row["model"]))} for row in figures]
        if result.command == "probe":
            episodes += [{"result": file.stem, **row} for row in episode_rows(result.per_episode)]
    if not summary:
        hint = "only results of probe and rates have tables"
        raise StoreError(f"{counted(len(left_out), 'result')} without figures: {some(left_out)}", hint=hint)
    tables = dict(zip(places, (summary, episodes), strict=True))
    for part, rows in tables.items():
        write_output(places[part], _FORMATS[form](rows))
    return ExportedTables({str(places[part]): len(rows) for part, rows in tables.items()}, left_out)


def _find(settings: ResultSettings, store: Store) -> list[Path]:
    """Return the files of the named results, of all results by default, the newest one last."""
    return store.find_results(map(str, settings.results)) if settings.results else store.results()


def _require(settings: ResultSettings, store: Store) -> list[Path]:
    """Return the same files; StoreError if there are none."""
    files = _find(settings, store)
    if not files:
        raise StoreError(_none_yet(store))
    return files


def _none_yet(store: Store) -> str:
    return f"there is no result in `{store.home / 'results'}` yet"


def _output(settings: ResultExportSettings) -> tuple[Path, str]:
    """Return the beginning of the tables' paths without an ending, and the format."""
    output = settings.output or Path("results")
    ending = output.suffix.removeprefix(".")
    if ending not in _FORMATS:
        if ending.isalpha() and settings.format is None:
            hint = f"end the name with {one_of([f'.{each}' for each in _FORMATS])}, or add --format"
            raise UsageError(f"the format of `--output {output}` is unknown", hint=hint)
        return output, settings.format or "csv"
    if settings.format not in (None, ending):
        hint = "omit --format, or the ending of --output"
        raise UsageError(f"--format {settings.format} does not fit --output `{output}`", hint=hint)
    return output.with_suffix(""), ending


def read_any(path: Path) -> Result[Any]:
    """Read and check a result of any command.

    Raises:
        ResultError: it is not a result of this version, or it is damaged.
        StoreError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise storage_error(path, error, "read") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"`{path}` is not valid JSON: {error}") from error
    types = result_types()
    schema = content.get("schema") if isinstance(content, dict) else None
    found = re.fullmatch(r"nilr/([a-z-]+)/(\d{1,9})", schema) if isinstance(schema, str) else None
    if found is None or found[1] not in types or int(found[2]) > SCHEMA_VERSION:
        raise ResultError(f"`{path}` is not a result of this nilr: its schema is `{schema}`")
    try:
        return types[found[1]].model_validate(content, extra="ignore")
    except ValidationError as error:
        raise ResultError(f"`{path}` is not a valid {schema}: {invalid_field(error)}") from error


def _row(file: Path) -> ResultRow:
    """Return the row of a file, without parsing the whole of it."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            head = opened.read(_HEAD).decode("utf-8", errors="replace")
    except OSError as error:
        raise storage_error(file, error, "read") from error
    found, models = _NAME.fullmatch(file.stem), []
    _, at, rest = head.partition('"models":')
    if at:
        try:
            listed, _ = json.JSONDecoder().raw_decode(rest.lstrip())
            models = [str(model["name"]) for model in listed]
        except (ValueError, TypeError, KeyError):
            models = []
    kind = _kind(file) or "unknown"
    question = found[7].removeprefix(kind).removeprefix("-").replace("_", " ") if found else ""
    saved_at = "{}-{}-{} {}:{}:{}".format(*found.groups()) if found else None
    return ResultRow(
        name=file.stem, command=kind, question=question or None, models=models, saved_at=saved_at, bytes=size
    )


def _kind(file: Path) -> str | None:
    """Return the command of a result, from the name of its file, or else from its beginning."""
    if found := _NAME.fullmatch(file.stem):
        return next((kind for kind in _KINDS if f"{found[7]}-".startswith(f"{kind}-")), None)
    with contextlib.suppress(OSError), file.open("rb") as opened:
        if schema := re.search(rb'"schema": *"nilr/([a-z-]+)/', opened.read(_HEAD)):
            return schema[1].decode()
    return None


def _origin(result: Result[Any], model: Any) -> Row:  # noqa: ANN401 - ModelUsed, or None for a control
    """Return what a figure comes from: the model's checkpoint and seed, the pack, and the question."""
    data = result.data_b or result.data
    return {
        "algo": model.algo if model else None,
        "seed": model.seed if model else None,
        "outer_step": model.outer_step if model else None,
        "checkpoint": model.checkpoint if model else None,
        "data": data.name if data else None,
        "split": data.split if data else None,
        "question": result.question,
        "started_at": result.started_at,
    }


def _columns(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _json(rows: Sequence[Row]) -> bytes:
    return json.dumps(rows, indent=1, allow_nan=False).encode() + b"\n"


def _parquet(rows: Sequence[Row]) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        hint = "pip install 'nilr[parquet]', or use --format csv"
        raise NilrError("--format parquet needs pyarrow, which is not installed", hint=hint) from error
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in _columns(rows)}), buffer)
    return buffer.getvalue()


_FORMATS = {"csv": _csv, "json": _json, "parquet": _parquet}
