"""The store on disk: where packs, models and results live, and what a name means.

<home>/datasets/<name>.h5
<home>/models/<name>/{best,last,training}.safetensors, history.jsonl
<home>/results/<utc>-<command>-<id>.json
<home>/locks/<name>.lock
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from nilr.checkpoint import Manifest, read_manifest
from nilr.config.base import is_name
from nilr.errors import CheckpointError, StoreError, UnknownNameError
from nilr.files import remove_at_once, remove_stale, storage_error

BEST, LAST = "best.safetensors", "last.safetensors"
TRAINING_STATE, HISTORY = "training.safetensors", "history.jsonl"
CHECKPOINTS = {"best": BEST, "last": LAST}

_NAME_LENGTH = 100


@dataclass(frozen=True)
class ModelRef:
    """One checkpoint of one model.

    Attributes:
        name: the registry name, or the base name of a path.
        directory: the model's directory.
        checkpoint: "best" or "last"; the stem of a file that is neither.
        file: the checkpoint.
    """

    name: str
    directory: Path
    checkpoint: str
    file: Path


class Store:
    """The datasets, models and results of a user. Making one touches nothing on disk.

    Args:
        home: its directory; None for NILR_HOME, else the platform's directory for user data.

    Raises:
        StoreError: it is None, and nothing says where that is.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = Path(home or os.environ.get("NILR_HOME") or _user_data()).absolute()

    def dataset_path(self, name: str) -> Path:
        """Return where the pack of that name stands, or would.

        Raises:
            StoreError: it cannot be a name.
        """
        return self._datasets / f"{_checked('dataset', name)}.h5"

    def find_data(self, ref: str) -> Path:
        """Return the file of a pack, given by name or, with a `/` in it, by path.

        Raises:
            StoreError: it is not there; the packs that are there are listed.
        """
        path = Path(ref) if _is_path(ref) else self.dataset_path(ref)
        with _storage(path):
            if path.is_file():
                return path
            if _is_path(ref):
                raise StoreError(f"there is no pack `{ref}`", hint="`nilr prepare-data` makes one")
            known = sorted(file.stem for file in self._datasets.glob("*.h5") if is_name(file.stem))
        hint = "pack it with `nilr prepare-data SOURCE...`, or images to try with `nilr prepare-data --synthetic`"
        if known:
            hint = f"known: {', '.join(known)}; `nilr prepare-data` packs more"
        raise StoreError(f"no dataset `{ref}` in `{self._datasets}`", hint=_as_path(ref) + hint)

    def model_dir(self, name: str) -> Path:
        """Return where the model of that name stands, or would.

        Raises:
            StoreError: it cannot be a name.
        """
        return self._models / _checked("model", name)

    def require_model(self, name: str) -> Path:
        """Return the directory of the model of that name.

        Raises:
            StoreError: there is none; the known ones are listed.
        """
        directory = self.model_dir(name)
        with _storage(directory):
            if not directory.is_dir() and not directory.is_symlink():
                hint = f"{_as_path(name)}known: {self._known()}"
                raise StoreError(f"no model `{name}` in `{self._models}`", hint=hint)
        return directory

    def model_names(self) -> list[str]:
        """Return the names of all models, those without a checkpoint included, in order.

        Raises:
            StoreError: the store cannot be read.
        """
        with _storage(self._models), contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in self._models.iterdir() if is_name(entry.name) and entry.is_dir())
        return []

    def find_model(self, ref: str | None) -> ModelRef:
        """Return the checkpoint that a MODEL argument means.

        Args:
            ref: a name, or with a `/` in it the path of a directory or a .safetensors file; `@best` or `@last` after
                it says which checkpoint, else best where validation chose one, else last. None for the model trained
                last (adapted ones do not count).

        Raises:
            StoreError: it is not there; the known models are listed.
            UnknownNameError: neither best nor last stands after the `@`.
        """
        if ref is None:
            return _pick(self._trained_last(), None)
        with _storage(Path(ref)):
            base, wanted = _split(ref)
        if not _is_path(base):
            return _pick(self.require_model(base), wanted)
        path = Path(base)
        with _storage(path):
            if path.is_dir():
                return _pick(path, wanted)
            if path.suffix != ".safetensors" or not path.is_file():
                hint = f"expected a model's directory or .safetensors file; models in the store: {self._known()}"
                raise StoreError(f"there is no model at `{base}`", hint=hint)
        if wanted is not None:
            raise StoreError(f"`{base}` is one checkpoint", hint=f"leave @{wanted} out, or name its directory")
        own = path.stem in CHECKPOINTS
        return ModelRef(path.absolute().parent.name if own else path.stem, path.parent, path.stem, path)

    def fresh_model_name(self, base: str) -> str:
        """Make the directory of a new model, and return its name: base, base-2, base-3...

        Two processes never get the same name.

        Raises:
            StoreError: the store cannot be written.
        """
        name, number = _checked("model", base), 1
        with _storage(self._models, "write"):
            self._models.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    (self._models / name).mkdir()
                except FileExistsError:
                    number += 1
                    suffix = f"-{number}"
                    name = base[: _NAME_LENGTH - len(suffix)] + suffix
                else:
                    return name

    @contextlib.contextmanager
    def lock(self, name: str, *, kind: str = "model") -> Iterator[None]:
        """Hold a model (or a thing of another kind) for this process alone.

        The system lets go of it whatever way the process ends.

        Raises:
            StoreError: another process holds it, or the store cannot be written.
        """
        held = _checked(kind, name) if kind == "model" else f"{kind}@{_checked(kind, name)}"
        path = self.home / "locks" / f"{held}.lock"
        lock = FileLock(path, timeout=0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            hint = "wait until that has ended, or take another --name"
            raise StoreError(f"{kind} `{name}` is in use by another process", hint=hint) from error
        except OSError as error:
            raise storage_error(path, error, "lock") from error
        try:
            for directory in (self._models, *self._models.glob("*/")):
                remove_stale(directory)
            yield
        finally:
            lock.release()

    def remove_model(self, name: str) -> None:
        """Remove a model, at once for all who look for it; a link is removed, never what it points to.

        Raises:
            StoreError: there is none, a process trains it, or the store cannot be written.
        """
        directory = self.require_model(name)
        with self.lock(name), _storage(directory, "remove"):
            remove_at_once(directory)

    def result_path(self, command: str) -> Path:
        """Return a fresh path for a command's result; names sort by time."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        return self.home / "results" / f"{stamp}-{command}-{secrets.token_hex(3)}.json"

    @property
    def _datasets(self) -> Path:
        return self.home / "datasets"

    @property
    def _models(self) -> Path:
        return self.home / "models"

    def _trained_last(self) -> Path:
        newest: tuple[str, Path] | None = None
        for name in self.model_names():
            manifest = newest_manifest(self.model_dir(name))
            if manifest is not None and manifest.parent is None and (newest is None or manifest.saved_at > newest[0]):
                newest = (manifest.saved_at, self.model_dir(name))
        if newest is None:
            others = f"; models that do not count: {self._known()}" if self.model_names() else ""
            hint = f"train one with `nilr meta-train`{others}"
            raise StoreError(f"there is no trained model in `{self._models}` yet", hint=hint)
        return newest[1]

    def _known(self) -> str:
        return ", ".join(self.model_names()) or "none; `nilr meta-train` trains one"


def _user_data() -> Path:
    try:
        return platformdirs.user_data_path("nilr", appauthor=False)
    except RuntimeError as error:
        raise StoreError("this user has no home directory", hint="name the store's with --home or NILR_HOME") from error


def holds_model(directory: Path) -> bool:
    """Tell whether a checkpoint, or a training's state, stands in a directory."""
    return any(directory.glob("*.safetensors"))


def newest_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a model's last checkpoint, else of its best; None where neither can be read."""
    for checkpoint in reversed(CHECKPOINTS):
        with contextlib.suppress(CheckpointError, OSError):
            return read_manifest(directory / CHECKPOINTS[checkpoint])
    return None


def _pick(directory: Path, wanted: str | None) -> ModelRef:
    name = directory.absolute().name
    with _storage(directory):
        there = [checkpoint for checkpoint, file in CHECKPOINTS.items() if (directory / file).is_file()]
    if not there:
        raise StoreError(f"model `{name}` has no checkpoint yet", hint="`nilr models ls` shows how far it is")
    if wanted is not None and wanted not in there:
        hint = f"take `{name}@{there[0]}`; best is there once a validation chose it (--eval-every)"
        raise StoreError(f"model `{name}` has no checkpoint `{wanted}`", hint=hint)
    chosen = wanted or there[0]
    return ModelRef(name, directory, chosen, directory / CHECKPOINTS[chosen])


def _split(ref: str) -> tuple[str, str | None]:
    base, at, wanted = ref.rpartition("@")
    if not at or "/" in wanted or (_is_path(ref) and Path(ref).exists()):
        return ref, None
    if wanted not in CHECKPOINTS:
        raise UnknownNameError("checkpoint", wanted, CHECKPOINTS)
    return base, wanted


def _as_path(name: str) -> str:
    return f"for the one in this directory write `./{name}`; " if Path(name).exists() else ""


def _is_path(ref: str) -> bool:
    return "/" in ref or os.sep in ref


def _checked(what: str, name: str) -> str:
    if not is_name(name):
        hint = f"a name has 1 to {_NAME_LENGTH} of A-Z a-z 0-9 . _ - and begins with a letter or digit"
        raise StoreError(f"`{ascii(name)[1:-1][:60]}` cannot be the name of a {what}", hint=hint)
    return name


@contextlib.contextmanager
def _storage(path: Path, doing: str = "read") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(path, error, doing) from error
