"""Models export: write a model to a file for other programs, with a description without code."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import nilr
from nilr.checkpoint import load_checkpoint
from nilr.config.models import ExportSettings
from nilr.errors import CheckpointError, UsageError
from nilr.files import check_free, check_output, write_output
from nilr.models.conv_body import ConvBody
from nilr.portable.layouts import LAYOUTS, find_layout
from nilr.portable.state_dict import SUFFIXES, serialize_state_dict
from nilr.portable.writing import Written, for_learn2learn, with_own_names
from nilr.recipes.common.loading import LoadedModel, load_model
from nilr.recipes.models import Exported
from nilr.reporting import Reporter
from nilr.store import Store

_BUFFERS = "The running statistics are those of a new network: use it in training mode, as nilr does."


def run(settings: ExportSettings, reporter: Reporter) -> Exported:
    """Write the model, and beside it its description as JSON."""
    path, store = _output(settings), Store(settings.home)
    if settings.format == "nilr":
        file = store.find_model(settings.model).file
        load_checkpoint(file)
        write_output(path, file.read_bytes())
        return Exported([path], [])
    model = load_model(store, settings.model, device=torch.device("cpu"), engine="auto", code=settings.arch)
    written = with_own_names(model.params, {} if model.algorithm.fixed_rate is not None else model.inner_lr)
    notes = []
    if settings.format == "learn2learn":
        written = _for_learn2learn(model)
        notes = [f"Load it with {written.learner}.load_state_dict(...).", _BUFFERS]
    if model.checkpoint.manifest.inputs is not None:
        notes.append("Images must be normalised first, as `inputs` in the description says.")
    if settings.format == "learn2learn" and model.settings.get("batch_stats") == "inductive":
        notes.append("The model was trained to normalise queries by the support's statistics; learn2learn does not.")
    text = json.dumps(_describe(settings, model, written), indent=1, allow_nan=False)
    described = path.with_name(f"{path.name}.json")
    write_output(path, serialize_state_dict(path, written.tensors, {"description": text}))
    write_output(described, text.encode() + b"\n")
    return Exported([path, described], notes)


def _output(settings: ExportSettings) -> Path:
    """Check before the work that the files can be written."""
    path = settings.output
    if path is None:
        raise UsageError("no file to write is named", hint="name one with --output")
    suffixes = SUFFIXES[:1] if settings.format == "nilr" else SUFFIXES
    if path.suffix not in suffixes:
        what = f"`{path.name}` has no suffix for the format {settings.format}"
        raise UsageError(what, hint=f"use {', '.join(suffixes)}")
    for file in (path, path.with_name(f"{path.name}.json")):
        check_output(file, "--output")
        check_free(file, "--output", force=settings.force)
    return path


def _for_learn2learn(model: LoadedModel) -> Written:
    arch, body = model.checkpoint.manifest.architecture.name, model.learner.body
    layout = find_layout("learn2learn", arch)
    if layout is None or not isinstance(body, ConvBody):
        known = ", ".join(layout.arch for layout in LAYOUTS if layout.format == "learn2learn")
        raise CheckpointError(
            f"learn2learn has no network like {arch}", hint=f"it has {known}; use --format state-dict"
        )
    return for_learn2learn(layout, body.stages, model.params, model.inner_lr)


def _describe(settings: ExportSettings, model: LoadedModel, written: Written) -> dict[str, Any]:
    """Return what a program needs to build the network, as JSON."""
    manifest, body = model.checkpoint.manifest, model.learner.body
    stages = [{"type": type(stage).__name__.lower(), **asdict(stage)} for stage in getattr(body, "stages", ())]
    return {
        "format": f"nilr/{settings.format}",
        "format_version": 1,
        "nilr_version": nilr.__version__,
        "model": {"name": model.ref.name, "checkpoint": model.ref.checkpoint, "digest": model.checkpoint.digest},
        "architecture": manifest.architecture.model_dump(),
        "stages": stages,  # a unit is a convolution with padding kernel // 2, batch norm, activation and max-pool
        "features": "mean over positions" if getattr(body, "mean", False) else "flattened as channels, rows, columns",
        "batch_normalisation": {"eps": 1e-5, "statistics": "of each batch"},
        "inputs": {
            "range": [0, 1],
            "channels": "RGB",
            "image_size": manifest.data.image_size,
            **(manifest.inputs.model_dump() if manifest.inputs else {"mean": [0, 0, 0], "std": [1, 1, 1]}),
        },
        "algorithm": manifest.algorithm,
        "inner_rates": {name: list(rate.shape) or float(rate) for name, rate in model.inner_lr.items()},
        "names": written.names,
        "load_with": written.learner or "torch.nn.Module.load_state_dict, or safetensors",
        "data": manifest.data.model_dump(),
        "origin": manifest.origin.model_dump() if manifest.origin else None,
    }
