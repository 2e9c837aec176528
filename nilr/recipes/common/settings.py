"""What a training is really run with: defaults, then the algorithm's row, then the preset, then the user's flags."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue, ValidationError

from nilr.config.training import PRESETS, TrainSettings
from nilr.errors import CheckpointError, StoreError, UnknownNameError, UsageError, invalid_field
from nilr.meta.algorithms import ALGORITHMS, Algorithm, find_algorithm
from nilr.meta.inner_lr import bounds
from nilr.recipes.common.outcome import absolute_paths

# Where the run happens and what it is called; none of these changes a number of the run.
_PLACE = {
    "home",
    "data",
    "paths",
    "name",
    "preset",
    "resume",
    "force",
    "device",
    "threads",
    "episode_chunk",
    "save_every",
    "tensorboard",
}

# What the algorithm's row says unless it is set: setting -> field of the row.
_OF_THE_ROW = {
    "inner_steps": "inner_steps",
    "eval_inner_steps": "eval_inner_steps",
    "norm_adapted": "norm_adapted",
    "inner_lr_init": "inner_lr_init",
    "rate_grain": "grain",
    "rate_per_step": "per_step",
    "rate_constraint": "constraint",
}
_OF_LEARNED_RATES = ("inner_lr_init", "rate_grain", "rate_per_step", "rate_constraint")

_DEFAULTS = {name: field.default for name, field in TrainSettings.model_fields.items()}
_ROW_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Algorithm)}


def resolve(settings: TrainSettings) -> tuple[TrainSettings, Algorithm]:
    """Fill in what the preset and the algorithm's row say, and return the row as it will be run.

    Raises:
        UnknownNameError: no such preset or algorithm.
        UsageError: a fixed rate for an algorithm that learns its rates, or the reverse; no such constraint; a
            multi-step loss for one inner step.
    """
    merged = settings.model_copy(update=preset_values(settings) | settings.explicit())
    row = find_algorithm(merged.algo)
    _check_kind_of_rates(merged, row)
    given: dict[str, Any] = {field: getattr(merged, name) for name, field in _OF_THE_ROW.items()}
    if merged.inner_lr is not None:
        given["inner_lr_init"] = repr(merged.inner_lr)
    row = dataclasses.replace(row, **{field: value for field, value in given.items() if value is not None})
    bounds(row.constraint)
    if merged.multi_step_loss and row.inner_steps == 1:
        raise UsageError(
            f"--multi-step-loss weighs the steps of the inner loop, and `{row.name}` takes one here",
            hint="set --inner-steps",
        )
    filled = {name: getattr(row, field) for name, field in _OF_THE_ROW.items() if name not in _OF_LEARNED_RATES}
    if row.learns_rates:
        filled |= {name: getattr(row, _OF_THE_ROW[name]) for name in _OF_LEARNED_RATES}
    else:
        filled["inner_lr"] = float(row.inner_lr_init)
    return merged.model_copy(update=filled), row


def _check_kind_of_rates(settings: TrainSettings, row: Algorithm) -> None:
    if row.learns_rates and settings.inner_lr is not None:
        raise UsageError(f"`{row.name}` learns its inner rates", hint="say where they start with --inner-lr-init")
    asked = [name for name in _OF_LEARNED_RATES if getattr(settings, name) not in (None, False)]
    if asked and not row.learns_rates:
        learning = ", ".join(name for name, other in ALGORITHMS.items() if other.learns_rates)
        hint = f"set it with --inner-lr, or take an --algo that learns its rates: {learning}"
        raise UsageError(f"`{row.name}` has a fixed inner rate: {_flag(asked[0])} means nothing to it", hint=hint)


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


def recorded_settings(settings: TrainSettings) -> dict[str, JsonValue]:
    """Return the settings that a checkpoint and a result record: all but places on this machine, unless asked for."""
    record: dict[str, JsonValue] = settings.model_dump(
        mode="json", exclude={"home", "name", "resume", "force", "data", "tensorboard", "record_paths"}
    )
    paths = absolute_paths(settings)
    return {**record, "paths": paths} if paths else record


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
        settings: as `recorded_settings` gives them.
        trained_on: digest of the pack.
    """
    elsewhere = (*_PLACE, *_OF_THE_ROW, "inner_lr", "seed", "engine", "log_every")
    # what stands at its default says nothing, so that models of versions that did not know it yet share the digest
    told = {n: value for n, value in settings.items() if n not in elsewhere and value != _DEFAULTS.get(n)}
    row = {n: value for n, value in algorithm.items() if n != "paper" and value != _ROW_DEFAULTS.get(n)}
    recipe = json.dumps([dict(architecture), row, told, trained_on], sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()


def check_unchanged(asked: dict[str, Any], stored: dict[str, JsonValue], model: str) -> None:
    """Compare the settings asked for with those a training was begun with.

    Only `outer_steps` may grow, and that only where nothing runs over the whole of them.

    Args:
        asked: settings of this call, as `recorded_settings` gives them.
        stored: settings in the training state; those of a version that had fewer are filled in.
        model: the model's name, for the message.

    Raises:
        StoreError: a setting differs; it is named with both values.
    """
    begun = recorded_settings(resolve(parse_stored_settings(stored))[0])
    spanning = [_flag(name) for name in ("outer_lr_schedule", "multi_step_loss") if begun[name] != _DEFAULTS[name]]
    for name, value in asked.items():
        before = begun[name]
        grows = name == "outer_steps" and isinstance(before, int) and value >= before
        if name in _PLACE or name == "on_nan" or value == before or (grows and not spanning):
            continue
        hint = f"repeat its settings, or take them from it with --resume {model}; only --outer-steps may grow"
        if grows:
            hint = f"a longer run would be another training, under its {' and '.join(spanning)}"
        raise StoreError(
            f"model `{model}` was begun with {_flag(name)} {before}, and this call says {value}", hint=hint
        )


def with_stored_settings(settings: TrainSettings, stored: dict[str, JsonValue], data: JsonValue) -> TrainSettings:
    """Return the settings a training was begun with, on the pack `data`, under this call's explicit flags."""
    begun = parse_stored_settings(stored).model_dump()
    if data is not None:
        begun["data"] = data
    return settings.model_copy(update=begun | preset_values(settings) | settings.explicit())


def parse_stored_settings(stored: Mapping[str, JsonValue]) -> TrainSettings:
    """Return the settings that stand in a checkpoint or a training state; those it does not know are at their default.

    Raises:
        CheckpointError: they are none of a training.
    """
    try:
        return TrainSettings.from_stored(stored)
    except ValidationError as error:
        raise CheckpointError(f"invalid stored setting {invalid_field(error)}") from error


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
