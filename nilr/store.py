"""The store: the files of packs, models and results, and how names refer to them.

<home>/datasets/<name>.h5
<home>/models/<name>/{best,last,training}.safetensors, history.jsonl
<home>/results/<utc>-<command>-<id>.json, of a probe <utc>-probe-<question>-<id>.json
<home>/locks/<name>.lock
<home>/jobs/<utc>-<name>-<id>/: logs of the jobs of a cluster
"""

import contextlib
import fnmatch
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nilr.errors import CheckpointError, StoreError, UnknownNameError, did_you_mean, known_names
from nilr.files import command_line, expand_home, remove_at_once, remove_stale, storage_error
from nilr.locks import InUseError, is_locked, locked
from nilr.words import LONGEST_NAME, is_name, slug, some

if TYPE_CHECKING:
    from nilr.checkpoint import Manifest

BEST, LAST = "best.safetensors", "last.safetensors"
TRAINING_STATE, HISTORY = "training.safetensors", "history.jsonl"
CHECKPOINTS = {"best": BEST, "last": LAST}


@dataclass(frozen=True)
class ModelRef:
    """One checkpoint of one model."""

    name: str  # the model's name in the store, or the last part of its path
    directory: Path  # the model's directory
    checkpoint: str  # "best" or "last", or the stem of another file
    file: Path  # the checkpoint


class Store:
    """The packs, models and results in `home`, by default NILR_HOME or the platform's directory for user data."""

    def __init__(self, home: Path | None = None) -> None:
        self._given_home = home
        self.home = Path(expand_home(str(home or os.environ.get("NILR_HOME") or _user_data()))).absolute()
        self._datasets, self._models = self.home / "datasets", self.home / "models"

    def command(self, *words: str) -> str:
        """Return a command for the user to run next on this store."""
        return command_line(*words, home=self._given_home)

    def dataset_path(self, name: str) -> Path:
        """Return the file of a pack, which may not exist; StoreError if the name is invalid."""
        return self._datasets / f"{_checked('pack', name)}.h5"

    def packs(self) -> list[Path]:
        """Return the files of all packs, sorted by name."""
        return sorted(file for file in self._datasets.glob("*.h5") if is_name(file.stem))

    def find_data(self, ref: str) -> Path:
        """Return the file of a pack from its name, or from its path, which contains a `/`."""
        path = Path(ref) if _is_path(ref) else self.dataset_path(ref)
        with _storage(path):
            if path.is_file():
                return path
            if _is_path(ref):
                raise StoreError(f"there is no pack `{ref}`", hint=self.how_to_pack())
            known = [pack.stem for pack in self.packs()]
        others = f"{known_names(ref, known, self.command('data', 'ls'))}; or " if known else ""
        hint = f"{_as_path(ref)}{others}{self.how_to_pack()}"
        raise StoreError(f"no pack `{ref}` in `{self._datasets}`", hint=hint)

    def require_pack(self, name: str) -> Path:
        """Return the file of a pack in the store from its name; StoreError if it does not exist."""
        self.dataset_path(name)
        return self.find_data(name)

    def model_dir(self, name: str) -> Path:
        """Return the directory of a model, which may not exist; StoreError if the name is invalid."""
        return self._models / _checked("model", name)

    def require_model(self, name: str) -> Path:
        """Return the directory of a model; StoreError if it does not exist."""
        directory = self.model_dir(name)
        with _storage(directory):
            if not directory.is_dir() and not directory.is_symlink():
                hint = f"{_as_path(name)}{self.known_models(name)}"
                raise StoreError(f"no model `{name}` in `{self._models}`", hint=hint)
        return directory

    def model_names(self) -> list[str]:
        """Return the sorted names of all models, including those without a checkpoint."""
        with _storage(self._models), contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in self._models.iterdir() if is_name(entry.name) and entry.is_dir())
        return []

    def find_model(self, ref: str | None) -> ModelRef:
        """Return the checkpoint that a MODEL argument refers to.

        It is a name, or the path (with a `/`) of a directory or a .safetensors file. `@best` or `@last` selects a
        checkpoint; the default is best if it exists, else last. None: the latest trained model, not an adapted one.
        """
        if ref is None:
            return self._pick(self._trained_last(), None)
        with _storage(Path(ref)):
            base, wanted = _split(ref)
        if not _is_path(base):
            return self._pick(self.require_model(base), wanted)
        path = Path(base)
        with _storage(path):
            if path.is_dir():
                return self._pick(path, wanted)
            if path.suffix != ".safetensors" or not path.is_file():
                hint = f"give a directory, a .safetensors file or a name in the store; {self.known_models(path.name)}"
                raise StoreError(f"there is no model at `{base}`", hint=hint)
        if wanted is not None:
            raise StoreError(f"`{base}` is a single checkpoint", hint=f"remove @{wanted}, or name the directory")
        name = path.absolute().parent.name if path.stem in CHECKPOINTS else path.stem
        return ModelRef(name, path.parent, path.stem, path)

    def new_model_name(self, base: str) -> str:
        """Create the directory of a new model; return its name, base, base-2..., which no other process gets."""
        with _storage(self._models, "write"):
            self._models.mkdir(parents=True, exist_ok=True)
            while True:
                name = self.free_model_name(base)
                with contextlib.suppress(FileExistsError):
                    (self._models / name).mkdir()
                    return name

    def free_model_name(self, base: str) -> str:
        """Return the name that `new_model_name` would use, and create nothing."""
        name, number = _checked("model", base), 1
        with _storage(self._models):
            while os.path.lexists(self._models / name):
                number += 1
                suffix = f"-{number}"
                name = base[: LONGEST_NAME - len(suffix)] + suffix
        return name

    @contextlib.contextmanager
    def lock(self, name: str, *, kind: str = "model") -> Iterator[None]:
        """Lock a model, or something of another kind, for this process; StoreError if another one has the lock."""
        path = self._lock_path(name, kind)
        with contextlib.ExitStack() as resources:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                resources.enter_context(locked(path))
            except InUseError as error:
                hint = f"{error}, or choose another --name"
                raise StoreError(f"{kind} `{name}` is in use by another process", hint=hint) from error
            except OSError as error:
                raise storage_error(path, error, "lock") from error
            for directory in (self._models, *self._models.glob("*/")):
                remove_stale(directory)
            yield

    def in_use(self, name: str) -> bool:
        """Return whether a process has locked a model; False on a file system without locks."""
        return self.in_use_since(name) is not None

    def in_use_since(self, name: str) -> float | None:
        """Return when a process locked a model, in seconds since the epoch; None if none has, or without locks."""
        path = self._lock_path(name)
        return path.stat().st_mtime if is_locked(path) else None

    def _lock_path(self, name: str, kind: str = "model") -> Path:
        file = _checked(kind, name) if kind == "model" else f"{kind}@{_checked(kind, name)}"
        return self.home / "locks" / f"{file}.lock"

    def remove_model(self, name: str) -> None:
        """Remove a model atomically; of a link, only the link."""
        directory = self.require_model(name)
        with self.lock(name), _storage(directory, "remove"):
            remove_at_once(directory)

    def remove_pack(self, name: str) -> None:
        """Remove a pack by its name; of a link, only the link. StoreError if another process writes it."""
        path = self.dataset_path(name)
        with self.lock(name, kind="pack"), _storage(path, "remove"):
            path.unlink(missing_ok=True)

    def result_path(self, command: str, question: str | None = None) -> Path:
        """Return a new path for a command's result, with the question of a probe. Names sort by time.

        The question has no `-`, so a pattern such as `*-rates-*` finds only results of the command `rates`.
        """
        named = f"{command}-{slug(question).replace('-', '_')}" if question else command
        return self.home / "results" / f"{_unique(named)}.json"

    def jobs_path(self, name: str) -> Path:
        """Return a new path for the files of a cluster's jobs."""
        return self.home / "jobs" / _unique(name)

    def matching_models(self, refs: Iterable[str]) -> list[str]:
        """Return references to models, each pattern such as `cpu-maml-s*` or `cpu-*@last` replaced by its matches.

        Raises:
            StoreError: a pattern matches no name.
        """
        found: list[str] = []
        for ref in refs:
            if _is_path(ref) or not _is_pattern(ref):
                found.append(ref)
                continue
            pattern, at, wanted = ref.partition("@")
            names = fnmatch.filter(self.model_names(), pattern)
            if not names:
                raise StoreError(f"no model matches `{ref}`", hint=self.known_models(pattern))
            found += [f"{name}{at}{wanted}" for name in names]
        return list(dict.fromkeys(found))

    def results(self) -> list[Path]:
        """Return the files of all results, the newest one last."""
        return sorted((self.home / "results").glob("*.json"), key=lambda file: file.name)

    def find_results(self, refs: Iterable[str]) -> list[Path]:
        """Return result files, from their paths, names, beginnings of names or patterns.

        Raises:
            StoreError: a reference matches none.
        """
        found: list[Path] = []
        stored = {path.stem: path for path in self.results()}
        for ref in refs:
            pattern = ref.removesuffix(".json") if _is_pattern(ref) else f"{ref.removesuffix('.json')}*"
            matched = [Path(ref)] if Path(ref).is_file() else [stored[name] for name in fnmatch.filter(stored, pattern)]
            if not matched:
                hint = f"{did_you_mean(ref, stored)}`{self.command('results', 'ls')}` lists them"
                raise StoreError(f"no result `{ref}` in `{self.home / 'results'}`", hint=hint)
            found += matched
        return list(dict.fromkeys(found))

    def _trained_last(self) -> Path:
        names = self.model_names()
        manifests = {name: newest_manifest(self.model_dir(name)) for name in names}
        saved_at = {name: found.saved_at for name, found in manifests.items() if found and found.parent is None}
        if not saved_at:
            others = f"; ignored, because they are adapted or unreadable: {some(names)}" if names else ""
            hint = f"{self.how_to_train()}{others}"
            raise StoreError(f"there is no trained model in `{self._models}` yet", hint=hint)
        return self.model_dir(max(saved_at, key=saved_at.__getitem__))

    def _pick(self, directory: Path, wanted: str | None) -> ModelRef:
        name = directory.absolute().name
        with _storage(directory):
            there = [checkpoint for checkpoint, file in CHECKPOINTS.items() if (directory / file).is_file()]
        if not there:
            hint = f"expected {LAST} or {BEST} in `{directory}`"
            if directory.parent == self._models:
                hint = f"`{self.command('models', 'ls')}` shows its progress"
            raise StoreError(f"model `{name}` has no checkpoint yet", hint=hint)
        if wanted is not None and wanted not in there:
            ref = name if directory.parent == self._models else directory
            hint = f"use `{ref}@{there[0]}`; best exists after the first validation (--eval-every)"
            raise StoreError(f"model `{name}` has no checkpoint `{wanted}`", hint=hint)
        chosen = wanted or there[0]
        return ModelRef(name, directory, chosen, directory / CHECKPOINTS[chosen])

    def known_models(self, name: str) -> str:
        """Return a hint with the models of the store that are nearest to an unknown name."""
        names = self.model_names()
        return (
            known_names(name, names, self.command("models", "ls")) if names else f"known: none; {self.how_to_train()}"
        )

    def how_to_train(self) -> str:
        """Return a hint with the command that trains a model on a pack of the store, or else makes a pack."""
        if not self.packs():
            return f"{self.how_to_pack()}, and train on it"
        return f"train one with `{self.command('meta-train')}`"

    def how_to_pack(self) -> str:
        """Return a hint with the commands that make a pack."""
        commands = (self.command("prepare-data", source) for source in ("SOURCE...", "--synthetic"))
        return f"make a pack with {', or with '.join(f'`{command}`' for command in commands)}"


def _user_data() -> Path:
    with contextlib.suppress(RuntimeError):  # older versions of platformdirs return a path with `~`
        import platformdirs

        path = platformdirs.user_data_path("nilr", appauthor=False)
        if path.parts[0] != "~":
            return path
    raise StoreError("this user has no home directory", hint="set the store's directory with --home or NILR_HOME")


def holds_model(directory: Path) -> bool:
    """Return whether a directory has a checkpoint or a training state."""
    return any(directory.glob("*.safetensors"))


def without_state(name: str) -> StoreError:
    """Return the error for a model that has no training state, such as one that was imported."""
    return StoreError(
        f"model `{name}` has no training state ({TRAINING_STATE}) to resume from",
        hint="use the model as it is, or train another one with --name",
    )


def newest_manifest(directory: Path) -> "Manifest | None":
    """Return the manifest of a model's last checkpoint, or else of its best one; None if neither can be read."""
    from nilr.checkpoint import read_manifest

    for checkpoint in reversed(CHECKPOINTS):
        with contextlib.suppress(CheckpointError, OSError):
            return read_manifest(directory / CHECKPOINTS[checkpoint])
    return None


def _unique(name: str) -> str:
    """Return a new name that no other process on any machine makes, and that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{name}-{os.urandom(6).hex()}"


def _split(ref: str) -> tuple[str, str | None]:
    base, at, wanted = ref.rpartition("@")
    if not at or "/" in wanted or (_is_path(ref) and Path(ref).exists()):
        return ref, None
    if not base or not wanted:
        missing = "model before" if not base else "checkpoint after"
        raise StoreError(f"`{ref}` names no {missing} the `@`", hint="write MODEL@best, MODEL@last, or MODEL alone")
    if wanted not in CHECKPOINTS:
        raise UnknownNameError("checkpoint", wanted, CHECKPOINTS)
    return base, wanted


def _as_path(name: str) -> str:
    return f"for the one in the working directory write `./{name}`; " if Path(name).exists() else ""


def _is_pattern(ref: str) -> bool:
    return any(character in ref for character in "*?[")


def _is_path(ref: str) -> bool:
    return "/" in ref or os.sep in ref


def _checked(what: str, name: str) -> str:
    if not is_name(name):
        hint = f"use 1 to {LONGEST_NAME} of A-Z a-z 0-9 . _ - and start with a letter or digit"
        raise StoreError(f"`{ascii(name)[1:-1][:60]}` is not a valid name of a {what}", hint=hint)
    return name


@contextlib.contextmanager
def _storage(path: Path, doing: str = "read") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(path, error, doing) from error
