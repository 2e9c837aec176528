"""Write a model to a file."""

from pathlib import Path
from typing import Any

from nilr.checkpoint import save_checkpoint
from nilr.errors import StoreError, UsageError
from nilr.files import check_output, expand_home
from nilr.library.arguments import naming_arguments
from nilr.library.models import check_model
from nilr.meta.model import Model
from nilr.models.registry import image_arguments
from nilr.recipes.common.loading import UNKNOWN, LoadedModel
from nilr.tensorfile import digest_tensors

_FORMAT = "nilr in Python"


@naming_arguments
def save_model(model: Model, file: str | Path) -> Path:
    """Write a model to a new file, which `load_model` and the commands read; return its absolute path.

    The file of a model from `build_model`, `train` or `adapt` does not record its training: name the pack to evaluate
    it on with --data.

    Args:
        model: any but one from `wrap`, whose body is code that a file cannot contain.
        file: ends with .safetensors, in a directory that exists.

    Raises:
        NilrError: the model cannot be written, or the file exists.

    Examples:
        >>> import nilr, pathlib, tempfile
        >>> model = nilr.build_model(algo="maml", filters=4, image_size=16)
        >>> file = nilr.save_model(model, pathlib.Path(tempfile.mkdtemp()) / "start.safetensors")
        >>> nilr.load_model(file)
        LoadedModel(maml, 5-way, 597 parameters, layers block1, block2, block3, block4)
    """
    path = Path(expand_home(str(file))).absolute()
    check_model(model)
    if model.architecture is None:
        hint = 'build it from an import path: build_model("package.module:function")'
        raise UsageError(
            "a model from `wrap` cannot be saved: a file has the name of its body, not its code", hint=hint
        )
    if path.suffix != ".safetensors":
        raise UsageError(f"`{path}` is not a file of a model", hint="end its name with .safetensors")
    check_output(path, "`file`")
    if path.exists():
        raise StoreError(f"`{path}` already exists", hint="remove it, or choose another name")
    if isinstance(model, LoadedModel):
        own = {"format", "format_version", "nilr_version", "saved_at", "tensors_sha256"}
        manifest = model.checkpoint.manifest.model_dump(exclude=own, exclude_none=True)
        manifest.setdefault("parent", None)
        support = model.checkpoint.support
    else:
        manifest, support = _manifest(model, path), {}
    save_checkpoint(path, params=model.params, inner_lr=model.inner_lr, support_tensors=support, **manifest)
    return path


def _manifest(model: Model, path: Path) -> dict[str, Any]:
    """Return the fields of the manifest of a model in memory."""
    row, (arch, arguments) = model.algorithm, model.architecture or ("", {})
    sized = {**arguments, "n_way": len(model.params["head.bias"])}
    images = image_arguments(arguments["image_size"], arguments.get("channels", 3))
    names = ("mean", "std")
    inputs = dict(zip(names, (each.flatten().tolist() for each in model.learner.inputs or ()), strict=False))
    return {
        "architecture": {"name": arch, "arguments": sized},
        "algorithm": row.to_stored(),
        "settings": {
            "algo": row.name,
            "arch": arch,
            **sized,
            "n_shot": 1,
            "n_query": 15,
            "inner_steps": row.inner_steps,
            "eval_inner_steps": row.eval_inner_steps,
            **({"batch_stats": "inductive"} if model.inductive else {}),
        },
        "data": {"name": UNKNOWN, "digest": UNKNOWN, "resample": "none", **images},
        "outer_step": 0,
        "metrics": {},
        "engine": model.engine.name,
        "parent": None,
        "origin": {
            "format": _FORMAT,
            "file": path.name,
            "sha256": digest_tensors({name: value.cpu() for name, value in model.params.items()}),
            "notes": ["Saved by `nilr.save_model`, which does not record a training."],
        },
        **({"inputs": inputs} if inputs else {}),
    }
