"""Make the result of a command."""

import time
from pathlib import Path
from typing import Any, TypeVar

from pydantic import JsonValue

from nilr.commands import schema_of
from nilr.config.base import Settings
from nilr.config.meta_train import REFERENCES
from nilr.data.pack import Pack
from nilr.results.records import DataUsed
from nilr.results.result import SCHEMA_VERSION, Result
from nilr.store import Store
from nilr.words import utc_now

M = TypeVar("M")

_PACKS, _MODELS = ("data", "data_b", "verify", "exclude_classes_of"), ("model", "models", *REFERENCES)


def data_used(pack: Pack, split: str | None = None) -> DataUsed:
    """Return the entry of a pack, or of one of its splits, in a result."""
    names = DataUsed.model_fields.keys() - {"split", "n_classes"}
    n_classes = pack.counts()[split].classes if split in pack.splits else None
    return DataUsed(split=split, n_classes=n_classes, **{name: getattr(pack.info, name) for name in names})


class Outcome:
    """Records the start of a command, and makes its result."""

    def __init__(self, settings: Settings) -> None:
        self.command, self._paths = schema_of(settings), absolute_paths(settings)
        self.started_at = utc_now()
        self._began = time.monotonic()

    def result(self, metrics: M, **fields: Any) -> Result[M]:  # noqa: ANN401 - pydantic checks the fields of `Result`
        """Return the result."""
        return Result[M](
            schema_=f"nilr/{self.command}/{SCHEMA_VERSION}",
            command=self.command,
            metrics=metrics,
            paths=self._paths,
            started_at=self.started_at,
            duration_seconds=time.monotonic() - self._began,
            **fields,
        )


def absolute_paths(settings: Settings) -> dict[str, JsonValue]:
    """Return the absolute paths of the store and of every path, pack and model in the settings, by field.

    Without --record-paths, return {}. The paths need not exist.
    """
    if not getattr(settings, "record_paths", False):
        return {}
    store = Store(settings.home)
    paths: dict[str, JsonValue] = {"home": str(store.home)}
    for name, value in settings:
        many = value if isinstance(value, tuple) else (value,)
        found: list[JsonValue] = [str(path) for path in (_path(store, name, one) for one in many) if path is not None]
        if name != "home" and found:
            paths[name] = found if isinstance(value, tuple) else found[0]
    return paths


def _path(store: Store, name: str, value: object) -> Path | None:
    if name in _PACKS and value is not None:
        ref = str(value)
        is_path = "/" in ref or (name == "verify" and Path(ref).is_file())
        return Path(ref).absolute() if is_path else store.dataset_path(ref)
    if name in _MODELS and isinstance(value, str):
        return Path(value).absolute() if "/" in value else store.model_dir(value.partition("@")[0])
    return value.absolute() if isinstance(value, Path) else None
