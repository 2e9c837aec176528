"""Models import: models that stand elsewhere, in directories as the store has them -> models of the store."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nilr.checkpoint import Manifest, read_manifest
from nilr.config import ImportSettings
from nilr.errors import CheckpointError, NilrError, StoreError, UsageError
from nilr.files import replacing_directory, storage_error
from nilr.history import completed_updates
from nilr.recipes.common.loading import load_model
from nilr.recipes.common.outcome import Outcome
from nilr.recipes.common.settings import parse_stored_settings
from nilr.recipes.models import FILES, ModelRow, check_file, describe
from nilr.reporting import Reporter
from nilr.results.importing import ImportedModel, ImportMetrics
from nilr.results.result import Result
from nilr.runtime import environment
from nilr.store import BEST, LAST, TRAINING_STATE, Store, holds_model
from nilr.tensorfile import FOREIGN
from nilr.training_state import read_training_state

_EXPECTED = f"give directories that hold {LAST} or {BEST} themselves"


@dataclass(frozen=True)
class Given:
    """A model that is to be imported, after its files were checked.

    Attributes:
        source: where it stands.
        name: what it will be called.
        files: its files, by the names that they will have.
        manifests: of its checkpoints, by the same names.
        row: what a list of models would say of it.
    """

    source: Path
    name: str
    files: Mapping[str, Path]
    manifests: Mapping[str, Manifest]
    row: ModelRow


def run(settings: ImportSettings, reporter: Reporter) -> Result[ImportMetrics]:
    """Check all models that are given, and then copy each into the store, whole or not at all.

    Raises:
        NilrError: a file cannot be used, or a name is taken; where that is seen before copying, nothing is imported.
    """
    outcome = Outcome(settings)
    store = Store(settings.home)
    sources, given = _sources(settings), []
    reporter.stage("check", len(sources), unit="models")
    for source in sources:
        given.append(_read(store, source, settings.name))
        reporter.advance()
    _require_own_names(given)
    for model in given:
        _is_there(store, model, replace=settings.force)
    imported = [_bring_in(store, model, replace=settings.force) for model in given]
    device = torch.device("cpu")
    return outcome.result(
        {model.name: _told(model, store, imported=new) for model, new in zip(given, imported, strict=True)},
        config={
            **settings.model_dump(mode="json", exclude={"home"}),
            "sources": [source.name for source in sources],
        },
        models=[load_model(store, model.name, device=device, engine="auto").used for model in given],
        environment=environment(),
    )


def _sources(settings: ImportSettings) -> Sequence[Path]:
    if not settings.sources:
        raise UsageError("no model is given to import", hint=_EXPECTED)
    if settings.name is not None and len(settings.sources) > 1:
        raise UsageError(f"--name names one model, and {len(settings.sources)} are given", hint="leave --name out")
    return settings.sources


def _read(store: Store, source: Path, name: str | None) -> Given:
    """Check all files of a model.

    Raises:
        StoreError: it is not there, cannot be read, or its name cannot be one.
        CheckpointError: a file cannot be used, or its files do not belong together.
    """
    if source.exists() and not _holds_checkpoint(source):
        raise StoreError(f"`{source}` holds no checkpoint", hint=_EXPECTED)
    ref = store.find_model(os.path.join(".", source))  # noqa: PTH118 - a name is a path here
    files = {BEST if ref.checkpoint == "best" else LAST: ref.file}
    if source.is_dir():
        files = {file: source / file for file in FILES if os.path.lexists(source / file)}
    store.model_dir(name or ref.name)
    for path in files.values():
        _check(path)
    manifests = _manifests(files)
    try:
        newest = manifests.get(LAST) or manifests[BEST]
        row = describe(ref.name, newest, completed_updates(ref.directory, newest))
        for manifest in manifests.values():
            parse_stored_settings(manifest.settings)
    except CheckpointError as error:
        raise CheckpointError(f"`{source}`: {error.message}", hint=FOREIGN) from error
    _require_one_training(source, files, manifests)
    return Given(source, name or ref.name, files, manifests, row)


def _holds_checkpoint(source: Path) -> bool:
    if source.is_dir():
        return any((source / name).is_file() for name in (BEST, LAST))
    return source.suffix == ".safetensors"


def _check(path: Path) -> None:
    """Check that a file stands there itself, and all of it.

    Raises:
        NilrError: it cannot be used.
    """
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"`{path}` is no regular file", hint="links are not followed: put the file there")
    check_file(path)


def _manifests(files: Mapping[str, Path]) -> dict[str, Manifest]:
    return {name: read_manifest(path) for name, path in files.items() if name in (BEST, LAST)}


def _require_one_training(source: Path, files: Mapping[str, Path], manifests: Mapping[str, Manifest]) -> None:
    """Check that the files of a directory are those of one training.

    Raises:
        CheckpointError: they are not.
    """
    trainings = [
        (
            manifest.data.digest,
            manifest.settings.get("seed"),
            manifest.architecture,
            manifest.algorithm,
            manifest.parent,
        )
        for manifest in manifests.values()
    ]
    alike = all(training == trainings[0] for training in trainings)
    if TRAINING_STATE in files:
        values = read_training_state(files[TRAINING_STATE])[1]
        kept = values["settings"]
        seed = kept.get("seed") if isinstance(kept, dict) else None
        alike = alike and (values["data_digest"], seed) == trainings[0][:2]
    if alike and len(manifests) == 2:
        alike = manifests[BEST].outer_step <= manifests[LAST].outer_step
    if not alike:
        raise CheckpointError(f"the files of `{source}` are not those of one training", hint="copy the model again")


def _require_own_names(given: Sequence[Given]) -> None:
    names = [model.name for model in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two of the models would be called `{twice}`", hint="import one of them with --name")


def _is_there(store: Store, model: Given, *, replace: bool) -> bool:
    """Tell whether the store holds the very files already.

    Raises:
        StoreError: it holds another model of that name, which may not be replaced.
    """
    directory = store.model_dir(model.name)
    try:
        if not holds_model(directory):
            return False
        if all(
            (directory / name).is_file() and filecmp.cmp(path, directory / name, shallow=False)
            for name, path in model.files.items()
        ):
            return True
    except OSError as error:
        raise storage_error(directory, error, "read") from error
    if not replace:
        raise StoreError(
            f"another model `{model.name}` exists in `{store.home}`",
            hint="take another --name, or replace it with --force",
        )
    return False


def _bring_in(store: Store, model: Given, *, replace: bool) -> bool:
    """Copy a model, unless it is there already; return whether it was copied."""
    with store.lock(model.name):
        if _is_there(store, model, replace=replace):
            return False
        with replacing_directory(store.model_dir(model.name)) as staged:
            files = {name: staged / name for name in model.files}
            for name, path in model.files.items():
                shutil.copyfile(path, files[name], follow_symlinks=False)
            _check_copies(model, files)
    return True


def _check_copies(model: Given, copies: Mapping[str, Path]) -> None:
    try:
        for path in copies.values():
            _check(path)
        same = _manifests(copies) == model.manifests
    except NilrError:
        same = False
    if not same:
        raise CheckpointError(
            f"`{model.source}` changed while it was copied", hint="end what writes there, and import it again"
        )


def _told(model: Given, store: Store, *, imported: bool) -> ImportedModel:
    directory = store.model_dir(model.name)
    files = [name for name in FILES if (directory / name).exists()]
    return ImportedModel(
        status="complete" if model.row.status == "complete" else "incomplete",
        outer_step=model.row.outer_step or 0,
        files=files,
        resumable=TRAINING_STATE in files,
        imported=imported,
    )
