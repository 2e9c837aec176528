"""What a training is really run with: defaults, then the algorithm's row, then the preset, then the user's flags."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from nilr.config import PRESETS, TrainSettings
from nilr.errors import StoreError, UnknownNameError, UsageError
from nilr.meta.algorithms import Algorithm, find_algorithm

# Where the run happens and what it is called; none of these changes a number of the run.
_PLACE = ("home", "data", "name", "preset", "resume", "force", "device", "threads", "save_every", "tensorboard")


def resolve(settings: TrainSettings) -> tuple[TrainSettings, Algorithm]:
    """Fill in what the preset and the algorithm's row say, and return the row as it will be run.

    Raises:
        UnknownNameError: no such preset or algorithm.
        UsageError: a fixed rate for an algorithm that learns its rates, or the reverse.
    """
    merged = settings.model_copy(update=preset_values(settings) | settings.explicit())
    row = find_algorithm(merged.algo)
    if row.learns_rates and merged.inner_lr is not None:
        raise UsageError(f"`{row.name}` learns its inner rates", hint="say where they start with --inner-lr-init")
    if not row.learns_rates and merged.inner_lr_init is not None:
        raise UsageError(f"`{row.name}` has a fixed inner rate", hint="set it with --inner-lr")
    given: dict[str, Any] = {
        "inner_steps": merged.inner_steps,
        "eval_inner_steps": merged.eval_inner_steps,
        "norm_adapted": merged.norm_adapted,
        "inner_lr_init": merged.inner_lr_init if merged.inner_lr is None else repr(merged.inner_lr),
    }
    row = dataclasses.replace(row, **{key: value for key, value in given.items() if value is not None})
    filled: dict[str, Any] = {
        "inner_steps": row.inner_steps,
        "eval_inner_steps": row.eval_inner_steps,
        "norm_adapted": row.norm_adapted,
        "inner_lr_init" if row.learns_rates else "inner_lr": row.inner_lr_init
        if row.learns_rates
        else float(row.inner_lr_init),
    }
    return merged.model_copy(update=filled), row


def preset_values(settings: TrainSettings) -> dict[str, Any]:
    """Return what the preset sets.

    Raises:
        UnknownNameError: no such preset.
    """
    if settings.preset is None:
        return {}
    if settings.preset not in PRESETS:
        raise UnknownNameError("preset", settings.preset, PRESETS)
    return PRESETS[settings.preset]


def recorded(settings: TrainSettings) -> dict[str, JsonValue]:
    """Return the settings that a checkpoint and a result record: all but places on this machine."""
    record: dict[str, JsonValue] = settings.model_dump(
        mode="json", exclude={"home", "name", "resume", "force", "data", "tensorboard"}
    )
    return record


def recipe_digest(
    architecture: Mapping[str, JsonValue],
    algorithm: Mapping[str, JsonValue],
    settings: Mapping[str, JsonValue],
    trained_on: str,
) -> str:
    """Return what two trainings share that differ in nothing but their seed: a digest of all that changes a number.

    Args:
        architecture: name and arguments.
        algorithm: the row, as resolved.
        settings: as `recorded` gives them.
        trained_on: digest of the pack.
    """
    told = {name: value for name, value in settings.items() if name not in (*_PLACE, "seed", "engine", "log_every")}
    row = {name: value for name, value in algorithm.items() if name != "paper"}
    recipe = json.dumps([dict(architecture), row, told, trained_on], sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()


def check_unchanged(asked: dict[str, Any], stored: dict[str, JsonValue], model: str) -> None:
    """Compare the settings asked for with those a training was begun with; only `outer_steps` may grow.

    Args:
        asked: settings of this call, as `recorded` gives them.
        stored: settings in the training state.
        model: the model's name, for the message.

    Raises:
        StoreError: a setting differs; it is named with both values.
    """
    for name, value in asked.items():
        before = stored.get(name)
        grows = name == "outer_steps" and isinstance(before, int) and value >= before
        if name in _PLACE or value == before or grows:
            continue
        flag = "--" + name.replace("_", "-")
        raise StoreError(
            f"model `{model}` was begun with {flag} {before}, and this call says {value}",
            hint=f"repeat its settings, or take them from it with --resume {model}; only --outer-steps may grow",
        )


def merge_stored(settings: TrainSettings, stored: dict[str, JsonValue], data: JsonValue) -> TrainSettings:
    """Return the settings a training was begun with, on the pack `data`, under this call's explicit flags."""
    known = {name: value for name, value in stored.items() if name in TrainSettings.model_fields}
    if data is not None:
        known["data"] = data
    begun = TrainSettings.model_validate(known).model_dump()
    return settings.model_copy(update=begun | preset_values(settings) | settings.explicit())
