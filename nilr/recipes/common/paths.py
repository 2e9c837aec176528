"""What --record-paths adds to a result and to a checkpoint; without it nothing that is kept names a place."""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue

from nilr.config import MeasuringSettings
from nilr.store import Store

_PACKS, _MODELS = ("data", "data_b", "verify"), ("model", "models")


def absolute_paths(settings: MeasuringSettings) -> dict[str, JsonValue]:
    """Return the absolute path of each place that the settings name, by field, and of the store; {} unless asked for.

    Nothing needs to be there.
    """
    if not settings.record_paths:
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
