"""The settings of a training: resolved from defaults, algorithm, preset and flags; recorded; and compared."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from nilr.config.base import ClusterSettings, DeviceSettings, Settings
from nilr.config.meta_train import PRESETS, REFERENCES, TrainSettings
from nilr.errors import CheckpointError, StoreError, UnknownNameError, UsageError, invalid_field
from nilr.meta.algorithms import ALGORITHMS, Algorithm, find_algorithm
from nilr.meta.inner_lr import TENSOR_MEAN, bounds
from nilr.models.registry import arguments_of_others, body_arguments, find_body, image_arguments
from nilr.recipes.common.outcome import absolute_paths
from nilr.results.records import DataUsed
from nilr.words import as_flag

# Settings of the jobs of a cluster alone.
OF_JOBS = ClusterSettings.model_fields.keys() - DeviceSettings.model_fields.keys()

# Settings that change no number: where the training runs, and its name.
_PLACE = {"home", "data", "paths", "name", "preset", "resume", "force"}
_PLACE |= {"device", "threads", "episode_chunk", "recompute", "save_every", "log", "log_dir"}

# Settings that have their default in the algorithm's row: setting -> field of the row.
_OF_THE_ROW = {
    "inner_steps": "inner_steps",
    "eval_inner_steps": "eval_inner_steps",
    "norm_adapted": "norm_adapted",
    "inner_lr_init": "inner_lr_init",
    "rate_grain": "grain",
    "rate_per_step": "per_step",
    "rate_constraint": "constraint",
}
_OF_LEARNED_RATES = ("inner_lr_init", "rate_grain", "rate_per_step", "rate_constraint", "rate_norm_from")

_DEFAULTS = {name: field.default for name, field in TrainSettings.model_fields.items()}
_ROW_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Algorithm)}


def resolve(settings: TrainSettings) -> tuple[TrainSettings, Algorithm]:
    """Return the settings with all values filled in, and the algorithm with the values that the settings change.

    Flags override the preset, which overrides the algorithm's row.
    """
    merged = settings.model_copy(update=preset_values(settings) | settings.explicit())
    check_body(merged.arch, settings)
    row = find_algorithm(merged.algo)
    _check_rates(merged, row)
    changes: dict[str, Any] = {field: getattr(merged, name) for name, field in _OF_THE_ROW.items()}
    if merged.inner_lr is not None:
        changes["inner_lr_init"] = repr(merged.inner_lr)
    if merged.inner_lr_from is not None:
        changes["inner_lr_init"] = TENSOR_MEAN
    row = dataclasses.replace(row, **{field: value for field, value in changes.items() if value is not None})
    _, highest = bounds(row.constraint)
    if merged.rate_norm_from is not None and (row.rectified or math.isfinite(highest)):
        raise UsageError(
            "--rate-norm-from cannot scale rates that are bounded, or rectified as those of `sparse-maml`",
            hint="use --rate-constraint free, non-negative or fixed-signs with metasgd, fometasgd or lslr",
        )
    if merged.multi_step_loss and row.inner_steps == 1:
        raise UsageError(f"--multi-step-loss needs several inner steps; `{row.name}` has 1", hint="set --inner-steps")
    names = [name for name in _OF_THE_ROW if row.learns_rates or name not in _OF_LEARNED_RATES]
    filled = {name: getattr(row, _OF_THE_ROW[name]) for name in names}
    if not row.learns_rates and merged.inner_lr_from is None:
        filled["inner_lr"] = float(row.inner_lr_init)
    return merged.model_copy(update=filled), row


def check_body(arch: str, settings: Settings) -> None:
    """Raise UsageError if an argument of other bodies than `arch` is set."""
    for name in arguments_of_others(arch) & settings.explicit().keys():
        supported = " and ".join(map(as_flag, find_body(arch).arguments))
        hint = f"its size is set with {supported}" if supported else "leave it out"
        raise UsageError(f"the body `{arch}` does not support {as_flag(name)}", hint=hint)


def for_body(arch: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without the arguments that only other bodies than `arch` have."""
    return {name: value for name, value in values.items() if name not in arguments_of_others(arch)}


def _check_rates(settings: TrainSettings, row: Algorithm) -> None:
    if settings.inner_lr is not None and settings.inner_lr_from is not None:
        raise UsageError("--inner-lr and --inner-lr-from both set the fixed rates", hint="give one of them")
    if row.learns_rates and (settings.inner_lr, settings.inner_lr_from) != (None, None):
        raise UsageError(f"`{row.name}` learns its inner rates", hint="set their initial value with --inner-lr-init")
    unused = [name for name in _OF_LEARNED_RATES if getattr(settings, name) not in (None, False)]
    if unused and not row.learns_rates:
        learning = ", ".join(name for name, other in ALGORITHMS.items() if other.learns_rates)
        hint = f"set the inner rate with --inner-lr, or choose an --algo that learns its rates: {learning}"
        raise UsageError(f"`{row.name}` has a fixed inner rate and does not support {as_flag(unused[0])}", hint=hint)


def preset_values(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings of the preset, if there is one, that fit the body; UnknownNameError if it is unknown."""
    if settings.preset is None:
        return {}
    if settings.preset not in PRESETS:
        raise UnknownNameError("preset", settings.preset, PRESETS)
    values = PRESETS[settings.preset]
    return for_body((values | settings.explicit()).get("arch", settings.arch), values)


def recorded_settings(settings: TrainSettings) -> dict[str, JsonValue]:
    """Return the settings for checkpoints and results.

    They contain no arguments of other bodies, and no paths, except with --record-paths; a reference that is a path is
    given by its last part.
    """
    excluded = {"home", "name", "resume", "force", "data", "log", "log_dir", "record_paths"}
    excluded |= OF_JOBS | arguments_of_others(settings.arch)
    record: dict[str, JsonValue] = settings.model_dump(mode="json", exclude=excluded)
    record |= {name: Path(value).name for name in REFERENCES if (value := getattr(settings, name)) is not None}
    paths = absolute_paths(settings)
    return {**record, "paths": paths} if paths else record


def describe_changes(values: Mapping[str, object], defaults: Mapping[str, object]) -> str:
    """Return the settings that differ from their defaults, in one line."""
    return (
        "; ".join(f"{name} {value}" for name, value in values.items() if value != defaults.get(name)) or "the defaults"
    )


def stored_architecture(settings: TrainSettings, data: DataUsed) -> dict[str, JsonValue]:
    """Return the name and the arguments of the network that is trained on a pack, as a checkpoint contains them."""
    images, body = image_arguments(data.image_size, data.channels), body_arguments(settings.arch, settings)
    return {"name": settings.arch, "arguments": {"n_way": settings.n_way, **images, **body}}


def recipe_digest(
    architecture: Mapping[str, JsonValue],
    algorithm: Mapping[str, JsonValue],
    settings: Mapping[str, JsonValue],
    trained_on: str,
    reference: str | None = None,
) -> str:
    """Return a digest of everything that changes a number of a training, except the seed.

    `reference` is the recipe of the model whose rates the training uses.
    """
    ignored = (*_PLACE, *_OF_THE_ROW, *REFERENCES, "inner_lr", "seed", "engine", "log_every")
    # Defaults are left out: models of earlier versions, which lack newer settings, then have the same digest.
    changed = {n: value for n, value in settings.items() if n not in ignored and value != _DEFAULTS.get(n)}
    row = {n: value for n, value in algorithm.items() if n != "paper" and value != _ROW_DEFAULTS.get(n)}
    parts = [dict(architecture), row, changed, trained_on, *([] if reference is None else [reference])]
    recipe = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(recipe.encode()).hexdigest()


def check_unchanged(settings: dict[str, Any], stored: dict[str, JsonValue], model: str) -> None:
    """Check that a resumed training has the settings that it started with.

    Only `outer_steps` may increase, and only if no schedule depends on it. An earlier version may have stored fewer
    settings; the missing ones have their default.
    """
    before = recorded_settings(resolve(parse_stored_settings(stored))[0])
    schedules = [as_flag(name) for name in ("outer_lr_schedule", "multi_step_loss") if before[name] != _DEFAULTS[name]]
    for name, value in settings.items():
        old = before.get(name)
        longer = name == "outer_steps" and isinstance(old, int) and value >= old
        if name in _PLACE or name == "on_nan" or value == old or (longer and not schedules):
            continue
        hint = f"use the same settings, or load them with --resume {model}; only --outer-steps may increase"
        if longer:
            hint = f"with {' and '.join(schedules)}, a longer training differs from the first update on"
        raise _changed(model, name, old, value, hint)


def with_stored_settings(
    settings: TrainSettings, stored: dict[str, JsonValue], data: JsonValue, model: str
) -> TrainSettings:
    """Return the stored settings of a training and its pack `data`, overridden by this call's preset and flags.

    Raises:
        StoreError: the training of `model` has another algorithm; the settings of two cannot be combined.
    """
    values = parse_stored_settings(stored).model_dump(exclude_unset=True)
    if data is not None:
        values["data"] = data
    given = preset_values(settings) | settings.explicit()
    old, new = (one.get("algo", settings.algo) for one in (values, values | given))
    if new != old:
        raise _changed(model, "algo", old, new, f"load the settings with --resume {model} alone")
    arch = (values | given).get("arch", settings.arch)
    return settings.model_copy(update=for_body(arch, values) | given)


def _changed(model: str, name: str, old: object, new: object, hint: str) -> StoreError:
    was, now = (",".join(map(str, one)) if isinstance(one, list) else one for one in (old, new))
    return StoreError(f"model `{model}` is trained with {as_flag(name)} {was}, not with {now}", hint=hint)


def parse_stored_settings(stored: Mapping[str, JsonValue]) -> TrainSettings:
    """Return the settings in a checkpoint or a training state; missing ones have their default."""
    try:
        return TrainSettings.from_stored(stored)
    except ValidationError as error:
        raise CheckpointError(f"invalid stored setting {invalid_field(error)}") from error
