"""Report: tables and figures from result files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from nilr import __version__
from nilr.checkpoint import read_manifest
from nilr.config.base import ReportFormat
from nilr.config.keeping import ReportSettings
from nilr.errors import NilrError, StoreError, UsageError
from nilr.files import resolve_links, write_atomically
from nilr.history import Line, check_history
from nilr.report.contents import KINDS, Contents, contents
from nilr.report.figures.figure import History, Material
from nilr.report.markdown import markdown
from nilr.report.page import page
from nilr.report.reading import Source, read_result
from nilr.report.style import NARROW, WIDE, check_matplotlib, png, svg
from nilr.report.subjects import probed, reading
from nilr.reporting import Reporter
from nilr.store import HISTORY, Store

_SUFFIXES: dict[str, ReportFormat] = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}


@dataclass(frozen=True)
class Report:
    """What was made.

    Attributes:
        material: what the results say.
        contents: the parts; figures that were left out among them.
        written: the files, the main one first.
    """

    material: Material
    contents: Contents
    written: Sequence[Path]


def run(settings: ReportSettings, reporter: Reporter) -> Report:
    """Read results, and write a page, a Markdown text or pictures of them where `out` says.

    Raises:
        NilrError: a result cannot be read, there is nothing to draw with, or the place cannot be written.
    """
    store = Store(settings.home)
    out, form = settings.out, _format(settings)
    if out is not None:
        _check_place(out, form, force=settings.force)
        check_matplotlib()
    paths = settings.results or (_newest(store),)
    sources = [read_result(path) for path in dict.fromkeys(paths)]
    material = Material(sources, probed(sources), list(_histories(store, sources)))
    made = contents(material)
    written = [] if out is None else _write(out, form, made, reporter)
    return Report(material, made, written)


def _format(settings: ReportSettings) -> ReportFormat:
    if settings.format is not None:
        return settings.format
    suffix = "" if settings.out is None else settings.out.suffix.lower()
    if settings.out is not None and suffix not in _SUFFIXES:
        raise UsageError(
            f"`--out {settings.out}` does not say what to write", hint="end it with .html or .md, or add --format"
        )
    return _SUFFIXES.get(suffix, "html")


def figures_folder(out: Path, form: ReportFormat) -> Path:
    """Return the folder of the figures: `NAME-figures` beside the text, or `out` itself where there is none."""
    return out if form == "png" else out.with_name(f"{out.stem}-figures")


def _check_place(out: Path, form: ReportFormat, *, force: bool) -> None:
    """Refuse before the work what would be lost by it, or cannot be written."""
    folder = figures_folder(out, form)
    if form != "png" and out.is_dir():
        raise StoreError(f"cannot write `{out}`: it is a directory", hint="give --out the name of a file")
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"`{folder}` is a file, and the figures go into a folder of that name", hint="move it away")
    for path in (out, folder):
        if path.exists() and not force:
            raise StoreError(f"`{path}` is there already", hint="replace it with --force, or choose another --out")


def _newest(store: Store) -> Path:
    """Return the store's newest result of a probe.

    Raises:
        StoreError: there is none.
    """
    found = sorted((store.home / "results").glob("*-probe-*.json"))
    if not found:
        raise StoreError(f"there is no result of a probe in `{store.home / 'results'}`", hint="name result files")
    return found[-1]


def _write(out: Path, form: ReportFormat, made: Contents, reporter: Reporter) -> list[Path]:
    """Write the figures, and then the text that shows them."""
    folder = figures_folder(out, form)
    written, pictures = [], {}
    reporter.stage("figures", len(made.figures), unit="figures")
    for kind, drawing in made.figures:
        wide = svg(drawing.draw, WIDE)
        for name, content in {f"{kind.name}.svg": wide.encode(), f"{kind.name}.png": png(drawing.draw)}.items():
            write_atomically(folder / name, content)
            written.append(folder / name)
        if form == "html":
            pictures[kind.name] = (wide, svg(drawing.draw, NARROW))
        reporter.advance()
    _remove_stale(folder, written)
    if form == "png":
        return written
    by = f"nilr {__version__}"
    text = page(made, pictures, made_by=by) if form == "html" else markdown(made, figures=folder.name, made_by=by)
    write_atomically(resolve_links(out), text.encode())
    return [out, *written]


def _remove_stale(folder: Path, written: Sequence[Path]) -> None:
    """Take away figures that an earlier report left and this one does not have."""
    for kind in KINDS:
        for suffix in ("svg", "png"):
            path = folder / f"{kind.name}.{suffix}"
            if path not in written:
                path.unlink(missing_ok=True)


def _histories(store: Store, sources: Sequence[Source]) -> Iterator[History]:
    """Yield the histories of the results' models that stand in the store, under that name and with that digest."""
    seen = set()
    for source in sources:
        with reading(source):
            models = [(str(m["name"]), str(m["checkpoint"]), str(m["digest"])) for m in source.result.get("models", [])]
        for name, checkpoint, digest in models:
            if digest in seen:
                continue
            seen.add(digest)
            history = _history(store, name, checkpoint, digest)
            if history is not None:
                yield history


def _history(store: Store, name: str, checkpoint: str, digest: str) -> History | None:
    with contextlib.suppress(NilrError, OSError):
        directory = store.model_dir(name)
        manifest = read_manifest(directory / f"{checkpoint}.safetensors")
        if manifest.tensors_sha256 == digest:
            check_history(directory / HISTORY)
            text = (directory / HISTORY).read_text(encoding="utf-8", errors="replace")
            return _read_history(name, text, judged=manifest.outer_step)
    return None


def _read_history(label: str, text: str, *, judged: int) -> History | None:
    """Return what can be read of a history; None where that is too little."""
    lines: list[Line] = []
    for line in text.splitlines():
        with contextlib.suppress(ValidationError):
            lines.append(Line.model_validate_json(line))
    told = [(line, line.share_negative) for line in lines if line.share_negative is not None]
    if len(told) < 2:
        return None
    layered = [line.share_negative_by_layer for line, _ in told if line.share_negative_by_layer is not None]
    by_layer = {name: [shares.get(name, 0.0) for shares in layered] for name in (layered[-1] if layered else ())}
    return History(label, [line.outer_step for line, _ in told], [share for _, share in told], by_layer, judged)
