"""Tables and figures from result files."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nilr import __version__
from nilr.checkpoint import read_manifest
from nilr.config.base import ReportFormat
from nilr.config.commands import ReportSettings
from nilr.errors import NilrError, StoreError, UsageError
from nilr.files import check_output, resolve_links, write_atomically
from nilr.history import Line, check_history
from nilr.report.contents import KINDS, Contents, contents
from nilr.report.figures.figure import History, Material
from nilr.report.markdown import markdown
from nilr.report.page import page
from nilr.report.reading import Source, read_result
from nilr.report.style import NARROW, WIDE, check_matplotlib, png, svg
from nilr.report.subjects import probed
from nilr.reporting import Reporter
from nilr.results.records import ModelUsed
from nilr.store import HISTORY, Store

_FORMATS: dict[str, ReportFormat] = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}


@dataclass(frozen=True)
class Report:
    """A report."""

    material: Material  # what it is made from
    contents: Contents  # its parts
    written: Sequence[Path]  # its files, the main one first


def run(settings: ReportSettings, reporter: Reporter) -> Report:
    """Read results, and write a page, a Markdown text or pictures to `out` if it is given."""
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
    if settings.format is not None or settings.out is None:
        return settings.format or "html"
    form = _FORMATS.get(settings.out.suffix.lower())
    if form is None:
        raise UsageError(
            f"the format of `--out {settings.out}` is unknown", hint="end the name with .html or .md, or add --format"
        )
    return form


def _figures_folder(out: Path, form: ReportFormat) -> Path:
    """Return the folder for figures: `NAME-figures` beside the text, or `out` itself for pictures alone."""
    return out if form == "png" else out.with_name(f"{out.stem}-figures")


def _check_place(out: Path, form: ReportFormat, *, force: bool) -> None:
    """Check, before any work, that the report can be written and overwrites nothing without `force`."""
    folder = _figures_folder(out, form)
    check_output(out, "--out", folder=form == "png")
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"cannot write figures to `{folder}`: it is a file", hint="move it, or choose another --out")
    check_output(folder, "--out", folder=True)
    for path in (out, folder):
        if path.exists() and not force:
            raise StoreError(f"`{path}` already exists", hint="replace it with --force, or choose another --out")


def _newest(store: Store) -> Path:
    found = sorted((store.home / "results").glob("*-probe-*.json"))
    if not found:
        raise StoreError(f"no result of a probe in `{store.home / 'results'}`", hint="give the paths of result files")
    return found[-1]


def _write(out: Path, form: ReportFormat, made: Contents, reporter: Reporter) -> list[Path]:
    """Write the figures, and then the text that shows them."""
    folder = _figures_folder(out, form)
    written, pictures = [], {}
    reporter.stage("figures", len(made.figures), unit="figures")
    for part in made.parts:
        for kind, drawing in part.figures:
            name, wide = part.name(kind), svg(drawing.draw, WIDE)
            for file, content in ((f"{name}.svg", wide.encode()), (f"{name}.png", png(drawing.draw))):
                write_atomically(folder / file, content)
                written.append(folder / file)
            if form == "html":
                pictures[name] = (wide, svg(drawing.draw, NARROW))
            reporter.advance()
    for pattern in (
        f"{kind.name}{part}.{suffix}" for kind in KINDS for part in ("", ".[0-9]*-*") for suffix in ("svg", "png")
    ):
        for stale in set(folder.glob(pattern)) - set(written):  # from an earlier report
            stale.unlink()
    if form == "png":
        return written
    by = f"nilr {__version__}"
    text = page(made, pictures, made_by=by) if form == "html" else markdown(made, figures=folder.name, made_by=by)
    write_atomically(resolve_links(out), text.encode())
    return [out, *written]


def _histories(store: Store, sources: Sequence[Source[Any]]) -> Iterator[History]:
    """Yield the histories of the results' models, from models in the store with the same name and digest."""
    models: dict[str, ModelUsed] = {}
    for model in (model for source in sources for model in source.result.models):
        models.setdefault(model.digest, model)
    for model in models.values():
        with contextlib.suppress(NilrError, OSError):
            if history := _history(store, model):
                yield history


def _history(store: Store, model: ModelUsed) -> History | None:
    directory = store.model_dir(model.name)
    manifest = read_manifest(directory / f"{model.checkpoint}.safetensors")
    if manifest.tensors_sha256 != model.digest:
        return None
    check_history(directory / HISTORY)
    text = (directory / HISTORY).read_text(encoding="utf-8", errors="replace")
    return _read_history(model.name, text, evaluated=manifest.outer_step)


def _read_history(label: str, text: str, *, evaluated: int) -> History | None:
    """Return the readable lines of a history; None if fewer than two of them have shares of negative rates."""
    steps, shares, layered = [], [], []
    for text_line in text.splitlines():
        with contextlib.suppress(ValidationError):
            line = Line.model_validate_json(text_line)
            if line.share_negative is not None:
                steps.append(line.outer_step)
                shares.append(line.share_negative)
                if line.share_negative_by_layer is not None:
                    layered.append(line.share_negative_by_layer)
    if len(steps) < 2:
        return None
    by_layer = {name: [one.get(name, 0.0) for one in layered] for name in (layered[-1] if layered else ())}
    return History(label, steps, shares, by_layer, evaluated)
