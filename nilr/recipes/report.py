"""Tables and figures from result files."""

import contextlib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nilr import __version__
from nilr.checkpoint import read_manifest
from nilr.config.base import ReportFormat
from nilr.config.results import ReportSettings, ResultListSettings
from nilr.errors import NilrError, StoreError, UsageError, did_you_mean
from nilr.files import check_free, check_output, resolve_links, write_atomically
from nilr.history import Line, check_history
from nilr.recipes.results import list_results
from nilr.report.contents import KINDS, Contents, contents
from nilr.report.figures.figure import History, Material
from nilr.report.markdown import markdown
from nilr.report.page import page
from nilr.report.reading import Source, read_result
from nilr.report.style import NARROW, WIDE, WIDTHS, Look, check_matplotlib, picture, svg
from nilr.report.subjects import probed
from nilr.reporting import Reporter, SilentReporter
from nilr.results.question import DEFAULT
from nilr.results.records import ModelUsed
from nilr.store import HISTORY, Store
from nilr.words import counted, is_name

_FORMATS: dict[str, ReportFormat] = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}
FIGURES = ("pdf", "svg", "png")


@dataclass(frozen=True)
class Report:
    """A report."""

    material: Material  # what it is made from
    contents: Contents  # its parts
    written: Sequence[Path]  # its files, the main one first


def run(settings: ReportSettings, reporter: Reporter) -> Report:
    """Read results, and write a page, a Markdown text or figures to `out` if it is given."""
    store = Store(settings.home)
    out, form, look = settings.out, _format(settings), _look(settings)
    if out is not None:
        _check_place(out, form, force=settings.force)
        check_matplotlib()
    paths = _find_results(store, map(str, settings.results), reporter) if settings.results else [_newest(store)]
    sources = [read_result(path) for path in paths]
    if all(source.command == "reproduce" for source in sources):
        named = list(_named(paths, sources, reporter))
        sources += named
    folders = list(dict.fromkeys(path.parent for path in paths))
    material = Material(sources, probed(sources), list(_histories(store, sources, folders)))
    made = contents(material)
    written = [] if out is None else _write(out, form, look, made, reporter)
    return Report(material, made, written)


def _format(settings: ReportSettings) -> ReportFormat:
    if settings.format in FIGURES and settings.out is None:
        raise UsageError(f"--format {settings.format} needs --out", hint="name a folder for the figures: --out figures")
    if settings.format is not None or settings.out is None:
        return settings.format or "html"
    form = _FORMATS.get(settings.out.suffix.lower())
    if form is None:
        raise UsageError(
            f"the format of `--out {settings.out}` is unknown",
            hint="end the name with .html or .md, or add --format; for figures alone: --format pdf --out FOLDER",
        )
    return form


def _look(settings: ReportSettings) -> Look:
    if settings.style == "screen" and settings.width is not None:
        raise UsageError("--width is for a paper, and --style is screen", hint="omit one of both")
    paper = settings.style == "paper" or settings.width is not None
    return Look(WIDTHS[settings.width or "page"], paper=True) if paper else Look()


def _figures_folder(out: Path, form: ReportFormat) -> Path:
    """Return the folder for figures: `NAME-figures` beside the text, or `out` itself for figures alone."""
    return out if form in FIGURES else out.with_name(f"{out.stem}-figures")


def _check_place(out: Path, form: ReportFormat, *, force: bool) -> None:
    """Check, before any work, that the report can be written and overwrites nothing without `force`."""
    folder = _figures_folder(out, form)
    check_output(out, "--out", folder=form in FIGURES)
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"cannot write figures to `{folder}`: it is a file", hint="move it, or choose another --out")
    check_output(folder, "--out", folder=True)
    for path in (out, folder):
        check_free(path, "--out", force=force)


def _newest(store: Store) -> Path:
    found = sorted((store.home / "results").glob("*-probe-*.json"))
    if not found:
        raise StoreError(f"no result of a probe in `{store.home / 'results'}`", hint="give the paths of result files")
    return found[-1]


def _find_results(store: Store, refs: Iterable[str], reporter: Reporter) -> list[Path]:
    """Return result files, from paths, names and patterns of results, and names and patterns of models.

    A model stands for its newest `probe` and its newest `rates`.

    Raises:
        StoreError: a reference matches nothing, or no result contains the model.
    """
    found: list[Path] = []
    for ref in refs:
        if "/" in ref or Path(ref).is_file():
            found.append(Path(ref))
            if ref in store.model_names():
                file = f"`{ref}` is the file `{Path(ref).absolute()}`"
                reporter.note(f"{file}; for the model, run the command in another directory")
            continue
        try:
            found += store.find_results([ref])
        except StoreError:
            found += _of_models(store, ref)
    return list(dict.fromkeys(found))


def _of_models(store: Store, ref: str) -> list[Path]:
    found: dict[tuple[str, str], str] = {}  # model and command -> newest result
    limit = len(store.results()) + 1
    for kind in ("probe", "rates"):
        settings = ResultListSettings(home=store.home, kind=kind, limit=limit)
        for row in list_results(settings, SilentReporter()):
            for model in fnmatch.filter(row.models, ref):
                found.setdefault((model, kind), row.name)
    if found:
        return store.find_results(sorted(found.values()))
    if models := fnmatch.filter(store.model_names(), ref):
        hint = f"make one: `{store.command('probe', *models)}`"
        raise StoreError(f"no result of `probe` or `rates` in `{store.home / 'results'}` contains `{ref}`", hint=hint)
    hint = f"{did_you_mean(ref, store.model_names())}`{store.command('results', 'ls')}` lists results"
    raise StoreError(f"there is no file, no result and no model `{ref}`", hint=hint)


def _named(paths: Sequence[Path], sources: Sequence[Source[Any]], reporter: Reporter) -> Iterator[Source[Any]]:
    """Yield the results of the default question, and of the rates, that the results of experiments name.

    They lie beside the experiment's result, as `MODEL.COMMAND-ID.json` or as `MODEL/COMMAND-ID.json`.
    """
    for path, source in zip(paths, sources, strict=True):
        if source.result.metrics.grids:
            continue  # too many models for figures of their own
        names = [name for name in source.result.metrics.files if Path(name).name == name and name.count(".") >= 2]
        found = [place for name in names for place in [_place(path.parent, name)] if place.is_file()]
        other = 0
        for place in found:
            one = read_result(place)
            shown = one.command == "rates" or (one.command == "probe" and one.result.question == DEFAULT)
            other += not shown
            if shown:
                yield one
        if other:
            reporter.note(f"{counted(other, 'result')} of other choices: only in the figure of the choices")
        if missing := len(names) - len(found):
            reporter.note(f"{counted(missing, 'file')} that `{path}` names: not found beside it")


def _place(folder: Path, name: str) -> Path:
    model, _, rest = name.removesuffix(".json").rpartition(".")
    beside = folder / name
    return beside if beside.is_file() else folder / model / f"{rest}.json"


def _write(out: Path, form: ReportFormat, look: Look, made: Contents, reporter: Reporter) -> list[Path]:
    """Write the figures, and then the text that shows them."""
    folder = _figures_folder(out, form)
    written, pictures = [], {}
    reporter.stage("figures", len(made.figures), unit="figures")
    for part in made.parts:
        for kind, drawing in part.figures:
            name = part.name(kind)
            for suffix in (form,) if form in FIGURES else ("svg", "png"):
                write_atomically(folder / f"{name}.{suffix}", picture(drawing.draw, suffix, look))
                written.append(folder / f"{name}.{suffix}")
            if form == "html":
                pictures[name] = (svg(drawing.draw, WIDE), svg(drawing.draw, NARROW))
            reporter.advance()
    for pattern in (
        f"{kind.name}{part}.{suffix}" for kind in KINDS for part in ("", ".[0-9]*-*") for suffix in FIGURES
    ):
        for stale in set(folder.glob(pattern)) - set(written):  # from an earlier report
            stale.unlink()
    if form in FIGURES:
        return written
    by = f"nilr {__version__}"
    text = page(made, pictures, made_by=by) if form == "html" else markdown(made, figures=folder.name, made_by=by)
    write_atomically(resolve_links(out), text.encode())
    return [out, *written]


def _histories(store: Store, sources: Sequence[Source[Any]], folders: Sequence[Path]) -> Iterator[History]:
    """Yield the histories of the results' models: of models in the store or beside a result, with the same digest."""
    models: dict[str, ModelUsed] = {}
    for model in (model for source in sources for model in source.result.models):
        models.setdefault(model.digest, model)
    for model in models.values():
        places = [store.model_dir(model.name) if is_name(model.name) else None]
        places += [place for folder in folders for place in (folder / model.name, folder) if place.name == model.name]
        for place in places:
            with contextlib.suppress(NilrError, OSError):
                if place is not None and (history := _history(place, model)):
                    yield history
                    break


def _history(directory: Path, model: ModelUsed) -> History | None:
    manifest = read_manifest(directory / f"{model.checkpoint}.safetensors")
    if manifest.tensors_sha256 != model.digest:
        return None
    check_history(directory / HISTORY)
    text = (directory / HISTORY).read_text(encoding="utf-8", errors="replace")
    found = _read_history(model.name, text, evaluated=manifest.outer_step)
    n_way = manifest.settings.get("n_way")
    recipe = None if model.seed is None else model.recipe
    return found and replace(found, n_way=n_way if isinstance(n_way, int) else None, recipe=recipe)


def _read_history(label: str, text: str, *, evaluated: int) -> History | None:
    """Return the readable lines of a history; None if it has fewer than two figures of every kind."""
    steps, shares, layered = [], [], []
    losses, validations = [], []
    for text_line in text.splitlines():
        with contextlib.suppress(ValidationError):
            line = Line.model_validate_json(text_line)
            if line.query_loss is not None:
                losses.append((line.outer_step, line.query_loss))
            if line.val_accuracy is not None:
                validations.append((line.outer_step, line.val_accuracy.mean))
            if line.share_negative is not None:
                steps.append(line.outer_step)
                shares.append(line.share_negative)
                if line.share_negative_by_layer is not None:
                    layered.append(line.share_negative_by_layer)
    if max(len(steps), len(losses), len(validations)) < 2:
        return None
    by_layer = {name: [one.get(name, 0.0) for one in layered] for name in (layered[-1] if layered else ())}
    return History(label, steps, shares, by_layer, evaluated, losses, validations)
