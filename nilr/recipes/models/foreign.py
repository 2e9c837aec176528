"""Write the state dict of another library as a checkpoint of nilr."""

import dataclasses
import hashlib
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from nilr.checkpoint import save_checkpoint
from nilr.config.models import ImportSettings
from nilr.data.pack import open_pack
from nilr.errors import CheckpointError, UsageError
from nilr.meta.algorithms import ALGORITHMS, Algorithm
from nilr.models.conv_body import ConvBody
from nilr.models.learner import Learner, Params
from nilr.models.registry import build_learner, find_body
from nilr.portable.layouts import Layout
from nilr.portable.state_dict import read_description, read_state_dict
from nilr.portable.translation import Translated, translate
from nilr.recipes.common.loading import UNKNOWN
from nilr.recipes.common.outcome import data_used
from nilr.store import LAST, Store
from nilr.words import counted

_SIZES = range(8, 1025)
_N_QUERY = 15


def write_as_checkpoint(store: Store, settings: ImportSettings, path: Path, directory: Path) -> Path:
    """Translate a state dict, write it to `directory` as a model, and return the directory.

    The same file and settings give the same bytes.
    """
    found = read_state_dict(path)
    try:
        model = translate(found, form=settings.format, norm_step=settings.norm_step, ignored=settings.ignore)
        description = read_description(path) if model.layout.format == "nilr" else None
        inputs = _inputs(settings) or _described_inputs(description, model.layout)
        data = _data(store, settings, model)
        size: int = data["image_size"]
        params, notes = _with_head(settings, model, size)
        learner = build_learner(model.layout.arch, n_way=len(params["head.bias"]), image_size=size, **model.arguments)
        algorithm, inner_lr = _adaptation(settings, model, learner)
    except CheckpointError as error:
        raise CheckpointError(f"`{path}`: {error.message}", hint=error.hint) from error
    if any(value.dtype == torch.float64 for value in (*params.values(), *inner_lr.values())):
        notes.append("Converted from float64 to float32.")
    if not inputs and description is None:
        notes.append(f"Images are used in [0, 1]; {model.layout.format} itself trains on {model.layout.inputs}.")
    directory.mkdir()
    save_checkpoint(
        directory / LAST,
        params={name: params[name].float() for name, _ in learner.named_parameters()},
        inner_lr={name: rate.float() for name, rate in inner_lr.items()},
        **_manifest(settings, model, algorithm, n_way=len(params["head.bias"]), data=data),
        **inputs,
        origin={
            "format": model.layout.format,
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "notes": [*model.notes, *notes],
        },
        saved_at=datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="microseconds"),
    )
    return directory


def _manifest(
    settings: ImportSettings, model: Translated, algorithm: Algorithm, *, n_way: int, data: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields of the manifest that a training would fill."""
    arguments: dict[str, JsonValue] = {"n_way": n_way, "image_size": data["image_size"], **model.arguments}
    return {
        "architecture": {"name": model.layout.arch, "arguments": arguments},
        "algorithm": algorithm.to_stored(),
        "settings": {
            "algo": algorithm.name,
            "arch": model.layout.arch,
            **model.arguments,
            "n_way": n_way,
            "n_shot": settings.n_shot,
            "n_query": _N_QUERY,
            "inner_steps": algorithm.inner_steps,
            "eval_inner_steps": algorithm.eval_inner_steps,
        },
        "data": data,
        "outer_step": 0,
        "metrics": {},
        "engine": "another library",
        "parent": None,
    }


def _data(store: Store, settings: ImportSettings, model: Translated) -> dict[str, Any]:
    """Return the pack that the model was trained on, for its manifest."""
    if settings.data is None:
        return {"name": UNKNOWN, "digest": UNKNOWN, "image_size": _image_size(settings, model), "resample": "none"}
    used = data_used(open_pack(store.find_data(settings.data)))
    if settings.image_size not in (None, used.image_size):
        raise UsageError(
            f"--image-size is {settings.image_size}, and the images of `{used.name}` have {used.image_size} px",
            hint="leave --image-size out",
        )
    if used.channels != 3:
        raise UsageError(
            f"the images of `{used.name}` are grey, and the network takes RGB images",
            hint="leave --data out, or pack the images with --channels 3",
        )
    return used.model_dump(include={"name", "digest", "image_size", "resample", "fit", "generated"})


def _image_size(settings: ImportSettings, model: Translated) -> int:
    """Return the size of the images from the settings, or the only one that fits the head."""
    if settings.image_size is not None:
        return settings.image_size
    weight = model.params.get("head.weight")
    if weight is None or weight.dim() != 2:
        raise CheckpointError("the file does not say how large its images are", hint="set --image-size")
    sizes = [size for size in _SIZES if _feature_dim(model, size) == weight.shape[1]]
    sizes = [size for size in sizes if size // 16 == 5 or not model.layout.pools_5x5]
    if len(sizes) == 1:
        return sizes[0]
    if not sizes:
        raise _misfit(model.layout, weight.shape[1], None)
    raise CheckpointError(
        f"the head's {weight.shape[1]:,} features fit images of {sizes[0]} to {sizes[-1]} px",
        hint="set --image-size, or --data to the pack that the model was trained on",
    )


def _feature_dim(model: Translated, image_size: int) -> int:
    with torch.device("meta"):
        body, _ = find_body(model.layout.arch).build(image_size=max(_SIZES), **model.arguments)
    return body.feature_dim(image_size) if isinstance(body, ConvBody) else 0


def _misfit(layout: Layout, features: int, expected: int | None, size: int = 0) -> CheckpointError:
    makes = f"images of {size} px give {expected:,}" if expected else "images of no size give as many"
    return CheckpointError(
        f"`{layout.head}.{layout.head_weight}` takes {features:,} features, and with {layout.arch} {makes}",
        hint="check --image-size; a network that ends in another way, as in a mean over positions, is another function",
    )


def _with_head(settings: ImportSettings, model: Translated, size: int) -> tuple[Params, list[str]]:
    """Return the parameters with a head that fits the features, and a note if it is new."""
    layout, params = model.layout, dict(model.params)
    features = _feature_dim(model, size)
    if layout.pools_5x5 and size // 16 != 5:
        raise CheckpointError(
            f"{layout.format} takes the mean over 5x5 positions; images of {size} px give {size // 16}x{size // 16}",
            hint="nilr's mean is over all positions; both are equal for images of 80 to 95 px",
        )
    weight, bias = params.get("head.weight"), params.get("head.bias")
    if weight is None and bias is None:
        if settings.n_way is None:
            raise CheckpointError(
                f"the file has no head (`{layout.head}.{layout.head_weight}`)",
                hint="set --n-way to import the body with a head of zeros",
            )
        params |= {"head.weight": torch.zeros(settings.n_way, features), "head.bias": torch.zeros(settings.n_way)}
        return params, [f"The head of {settings.n_way} classes is new, of zeros: the file has none."]
    if settings.n_way is not None and weight is not None and settings.n_way != len(weight):
        raise UsageError(f"--n-way is {settings.n_way}, and the file has a head for {len(weight)} classes")
    if weight is not None and bias is None:
        params["head.bias"] = torch.zeros(len(weight), dtype=weight.dtype)
        return _checked_head(model, params, features, size), ["The head has no bias in the file; it is 0, and adapted."]
    return _checked_head(model, params, features, size), []


def _checked_head(model: Translated, params: Params, features: int, size: int) -> Params:
    weight, bias = params.get("head.weight"), params["head.bias"]
    layout = model.layout
    if weight is None or weight.dim() != 2 or bias.shape != weight.shape[:1]:
        raise CheckpointError(f"`{layout.head}.{layout.head_weight}` and `{layout.head}.bias` do not fit each other")
    if weight.shape[1] != features:
        raise _misfit(layout, weight.shape[1], features, size)
    if len(weight) < 2:
        raise CheckpointError(f"the head has {counted(len(weight), 'class', 'classes')}, expected at least 2")
    return params


def _adaptation(settings: ImportSettings, model: Translated, learner: Learner) -> tuple[Algorithm, Params]:
    """Return the row of the algorithm, and the inner rates."""
    steps, rates = model.n_steps or settings.inner_steps, dict(model.inner_lr)
    if rates and settings.inner_lr is not None:
        raise UsageError("the file has its own inner rates, and --inner-lr sets others", hint="leave --inner-lr out")
    if not rates and settings.inner_lr is None:
        raise UsageError(
            "the file has no inner rates",
            hint="set --inner-lr and --inner-steps",
        )
    if steps is None:
        raise UsageError("the file does not say how many inner steps it was trained for", hint="set --inner-steps")
    row = ALGORITHMS["lslr" if model.n_steps else "metasgd" if rates else "maml"]
    if model.n_steps and settings.inner_steps not in (None, steps):
        raise UsageError(f"the file has rates of {steps} inner steps, and --inner-steps is {settings.inner_steps}")
    moves_norm = model.layout.moves_norm
    if rates:
        moves_norm = any(learner.kinds[name].startswith("norm") for name in rates)
    row = dataclasses.replace(row, inner_steps=steps, eval_inner_steps=steps, norm_adapted=moves_norm)
    if rates:
        return dataclasses.replace(row, inner_lr_init=UNKNOWN), rates
    row = dataclasses.replace(row, inner_lr_init=repr(settings.inner_lr))
    return row, {name: torch.tensor(settings.inner_lr) for name in row.moved(learner.kinds)}


def _inputs(settings: ImportSettings) -> dict[str, dict[str, list[float]]]:
    """Return the field `inputs` of the manifest, the normalisation of the images; nothing if there is none."""
    if settings.input_mean is None and settings.input_std is None:
        return {}
    mean = _per_channel("--input-mean", settings.input_mean or "0")
    return {"inputs": {"mean": mean, "std": _per_channel("--input-std", settings.input_std or "1")}}


def _described_inputs(description: dict[str, Any] | None, layout: Layout) -> dict[str, Any]:
    """Return the field `inputs` of an exported model; check that its tensors alone show the same network."""
    if description is None:
        return {}
    try:
        arch, inputs = description["architecture"]["name"], description["inputs"]
        mean, std = ([float(value) for value in inputs[name]] for name in ("mean", "std"))
        if not (len(mean) == len(std) == 3 and all(map(math.isfinite, (*mean, *std))) and min(std) > 0):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise CheckpointError("the description lacks a valid architecture or inputs", hint="export it again") from None
    if arch != layout.arch:
        raise CheckpointError(
            f"it was exported from `{arch}`, whose tensors are those of {layout.arch}",
            hint="export it with --format nilr",
        )
    return {} if (mean, std) == ([0.0] * 3, [1.0] * 3) else {"inputs": {"mean": mean, "std": std}}


def _per_channel(flag: str, text: str) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
        if len(values) not in (1, 3) or not all(abs(value) < 1e6 for value in values):
            raise ValueError
        if flag == "--input-std" and min(values) <= 0:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{flag} is `{text}`", hint="give one number or three, separated by commas; --input-std above 0"
        ) from None
    return values * (3 // len(values))
