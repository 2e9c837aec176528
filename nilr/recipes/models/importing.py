"""Models import: check models from elsewhere, and copy them into the store.

A model is a directory like those of the store, a checkpoint, or a state dict of another library, which is translated.
"""

import contextlib
import dataclasses
import filecmp
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nilr.checkpoint import Manifest, Origin, load_checkpoint, read_manifest
from nilr.config.base import Settings
from nilr.config.models import ImportSettings
from nilr.errors import CheckpointError, NilrError, StoreError, UsageError
from nilr.files import replacing_directory, storage_error
from nilr.portable.state_dict import is_foreign
from nilr.recipes.common.evaluation_pack import probe_command
from nilr.recipes.common.loading import check_model
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.settings import parse_stored_settings
from nilr.recipes.models import FILES, ModelRow, check_file, describe
from nilr.recipes.models.foreign import write_as_checkpoint
from nilr.reporting import Reporter
from nilr.results.commands import ImportedModel, ImportMetrics
from nilr.results.result import Result
from nilr.runtime import environment
from nilr.store import BEST, LAST, TRAINING_STATE, Store, holds_model
from nilr.tensorfile import FOREIGN
from nilr.training_state import load_training_state
from nilr.words import as_flag

_EXPECTED = f"name directories that contain {LAST} or {BEST}, or files of another library"


@dataclass(frozen=True)
class Source:
    """A model to import, with valid files."""

    path: Path  # the user's SOURCE
    name: str  # its name in the store
    files: Mapping[str, Path]  # its files, by their names in the store
    manifests: Mapping[str, Manifest]  # the manifests of its checkpoints, by the same names
    row: ModelRow  # its row in a list of models

    @property
    def _origin(self) -> Origin | None:
        return next(iter(self.manifests.values())).origin

    @property
    def format(self) -> str:
        """The library that it comes from."""
        return self._origin.format if self._origin else "nilr"

    @property
    def notes(self) -> list[str]:
        """What was changed when it was translated."""
        return self._origin.notes if self._origin else []


def run(settings: ImportSettings, reporter: Reporter) -> Result[ImportMetrics]:
    """Check all models, and if all are valid, copy each into the store, whole or not at all."""
    outcome = Outcome(settings)
    store = Store(settings.home)
    if not settings.sources:
        raise UsageError("no model to import is named", hint=_EXPECTED)
    if settings.name is not None and len(settings.sources) > 1:
        raise UsageError(f"--name is for one model, and {len(settings.sources)} are given", hint="leave --name out")
    reporter.stage("check", len(settings.sources), unit="models")
    with tempfile.TemporaryDirectory(prefix="nilr-import-") as directory:
        sources = []
        for i, path in enumerate(settings.sources):
            sources.append(_source(store, settings, path, Path(directory) / str(i)))
            reporter.advance()
        return _import(store, settings, outcome, sources)


def _import(
    store: Store, settings: ImportSettings, outcome: Outcome, sources: Sequence[Source]
) -> Result[ImportMetrics]:
    names = [source.name for source in sources]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"two of the models have the name `{repeated}`", hint="import one of them alone, with --name")
    for source in sources:
        _is_stored(store, source, replace=settings.force)
    metrics = {}
    for source in sources:
        imported = _copy(store, source, replace=settings.force)
        files = [name for name in FILES if (store.model_dir(source.name) / name).exists()]
        metrics[source.name] = ImportedModel(
            status=source.row.status,
            outer_step=source.row.outer_step or 0,
            files=files,
            resumable=TRAINING_STATE in files,
            imported=imported,
            format=source.format,
        )
    return outcome.result(
        metrics,
        config=settings.model_dump(mode="json", exclude={"home"})
        | {"sources": [path.name for path in settings.sources]},
        models=[check_model(store, name) for name in metrics],
        notes=[note if len(sources) == 1 else f"{source.name}: {note}" for source in sources for note in source.notes],
        environment=environment(),
    )


def next_command(settings: Settings, result: Result[ImportMetrics]) -> str:
    """Return the command that evaluates the models."""
    return probe_command(settings, [*result.metrics])


def _source(store: Store, settings: ImportSettings, path: Path, place: Path) -> Source:
    """Check a model, which is first translated to the directory `place` if another library wrote it."""
    if not os.path.lexists(path):
        hint = f"`{store.command('models', 'pull', 'hf://USER/REPO')}` downloads models"
        if not str(path).startswith("hf:"):
            hint = "give a folder of a model, or a file .safetensors, .pt or .pth"
        raise StoreError(f"`{path}` does not exist", hint=hint)
    if not is_foreign(path):
        unused = [f for f in settings.explicit() if f not in ("sources", "name", "force", "home", "record_paths")]
        if unused:
            flag = as_flag(unused[0])
            raise UsageError(
                f"{flag} is for state dicts of other libraries, and `{path}` is not one", hint=f"omit {flag}"
            )
        return _read(store, path, settings.name)
    name = settings.name or re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "model"
    store.model_dir(name)
    place.mkdir()
    return dataclasses.replace(_read(store, write_as_checkpoint(store, settings, path, place / name), name), path=path)


def _read(store: Store, path: Path, name: str | None) -> Source:
    """Check all files of a model."""
    holds_model = any((path / file).is_file() for file in (BEST, LAST))
    if not holds_model and (path.is_dir() or path.suffix != ".safetensors"):
        raise StoreError(f"`{path}` contains no checkpoint", hint=_EXPECTED)
    ref = store.find_model(os.path.join(".", path))  # noqa: PTH118 - a word without `/` is a path here, not a name
    files = {BEST if ref.checkpoint == "best" else LAST: ref.file}
    if path.is_dir():
        files = {file: path / file for file in FILES if os.path.lexists(path / file)}
    store.model_dir(name or ref.name)
    for file in files.values():
        _check(file)
    manifests = _manifests(files)
    try:
        newest = manifests.get(LAST) or manifests[BEST]
        row = describe(ref.name, newest, ref.directory)
        for manifest in manifests.values():
            parse_stored_settings(manifest.settings)
    except CheckpointError as error:
        raise CheckpointError(f"`{path}`: {error.message}", hint=FOREIGN) from error
    if not _are_of_one_training(files, manifests):
        raise CheckpointError(f"the files of `{path}` belong to different trainings", hint="copy the model again")
    return Source(path, name or ref.name, files, manifests, row)


def _check(path: Path) -> None:
    """Check a file and its contents; links are invalid."""
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"`{path}` is not a regular file", hint="links are invalid; put the file itself there")
    check_file(path)


def _manifests(files: Mapping[str, Path]) -> dict[str, Manifest]:
    return {name: read_manifest(path) for name, path in files.items() if name in (BEST, LAST)}


def _are_of_one_training(files: Mapping[str, Path], manifests: Mapping[str, Manifest]) -> bool:
    trainings = [
        (m.data.digest, m.settings.get("seed"), m.architecture, m.algorithm, m.parent) for m in manifests.values()
    ]
    if any(training != trainings[0] for training in trainings):
        return False
    if TRAINING_STATE in files:
        _, state = load_training_state(files[TRAINING_STATE])
        if (state.data_digest, state.settings.get("seed")) != trainings[0][:2]:
            return False
    return len(manifests) < 2 or manifests[BEST].outer_step <= manifests[LAST].outer_step


def _is_stored(store: Store, source: Source, *, replace: bool) -> bool:
    """Return whether the store has the same model; StoreError if it has another of that name and not `replace`."""
    directory = store.model_dir(source.name)
    try:
        if not holds_model(directory):
            return False
        if all(
            (directory / name).is_file() and _is_same(path, directory / name, source)
            for name, path in source.files.items()
        ):
            return True
    except OSError as error:
        raise storage_error(directory, error, "read") from error
    if not replace:
        raise StoreError(
            f"another model `{source.name}` exists in `{store.home}`",
            hint="choose another --name, or replace it with --force",
        )
    return False


def _is_same(path: Path, stored: Path, source: Source) -> bool:
    """Compare two files; of a translated model, which is written anew for each import, their contents."""
    if filecmp.cmp(path, stored, shallow=False):
        return True
    with contextlib.suppress(CheckpointError):
        return source.format != "nilr" and load_checkpoint(stored).manifest == source.manifests.get(path.name)
    return False


def _copy(store: Store, source: Source, *, replace: bool) -> bool:
    """Copy a model unless it is stored already; return whether it was copied."""
    with store.lock(source.name):
        if _is_stored(store, source, replace=replace):
            return False
        with replacing_directory(store.model_dir(source.name)) as directory:
            copies = {name: directory / name for name in source.files}
            for name, path in source.files.items():
                shutil.copyfile(path, copies[name], follow_symlinks=False)
            try:
                for path in copies.values():
                    _check(path)
                unchanged = _manifests(copies) == source.manifests
            except NilrError:
                unchanged = False
            if not unchanged:
                raise CheckpointError(
                    f"`{source.path}` changed during the copy",
                    hint="import it again when no process writes to it",
                )
    return True
