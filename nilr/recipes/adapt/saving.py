"""Save an adapted model with what later images need of its support, and load that again."""

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor

from nilr.checkpoint import Adaptation, save_checkpoint
from nilr.config.evaluation import AdaptSettings
from nilr.errors import CheckpointError, StoreError
from nilr.recipes.adapt.judging import Support
from nilr.recipes.common.loading import LoadedModel
from nilr.results.commands import AdaptMetrics
from nilr.store import BEST, HISTORY, LAST, TRAINING_STATE, Store, holds_model


def stored_support(model: LoadedModel) -> Support:
    """Return what an adapted model keeps of its support; CheckpointError if it does not fit the model."""
    kept, tensors = model.checkpoint.manifest.support, model.checkpoint.support
    data = model.checkpoint.manifest.data
    image = model.learner.head.weight.new_zeros(1, data.channels, data.image_size, data.image_size)
    layers = model.learner.statistics(model.learner.initial_params(), image)
    sizes = kept.images if kept else []
    shapes = {"features": torch.Size((sum(sizes), model.learner.feature_dim))}
    shapes |= {f"statistics/{name}": value.shape for name, value in layers.items()}
    n_way = len(model.params["head.bias"])
    if len(sizes) != n_way or {name: value.shape for name, value in tensors.items()} != shapes:
        raise CheckpointError(f"`{model.ref.file}`: its support does not fit the model", hint="adapt the model again")
    like = model.params["head.bias"]
    labels = torch.arange(n_way, device=like.device).repeat_interleave(torch.tensor(sizes, device=like.device))
    features = tensors["features"].to(like)
    return Support(features, labels, {name: tensors[f"statistics/{name}"].to(like) for name in layers})


def store_adapted(
    store: Store,
    settings: AdaptSettings,
    model: LoadedModel,
    adapted: Mapping[str, Tensor],
    support: Support,
    metrics: AdaptMetrics,
    how: Adaptation,
) -> str:
    """Save the adapted parameters as a new model with its parent, its rates and its support; return its name."""
    manifest, n_way = model.checkpoint.manifest, len(metrics.classes)
    name = settings.name or store.new_model_name(f"{model.ref.name}-adapted")
    path = store.model_dir(name) / LAST
    try:
        with store.lock(name):
            if holds_model(path.parent) and not settings.force:
                raise StoreError(
                    f"model `{name}` exists in `{store.home}`", hint="choose another --name, or replace it with --force"
                )
            arguments = {**manifest.architecture.arguments, "n_way": n_way}
            save_checkpoint(
                path,
                params=adapted,
                inner_lr=model.inner_lr,
                support_tensors={
                    "features": support.features[support.labels.argsort(stable=True)],
                    **{f"statistics/{layer}": value for layer, value in support.statistics.items()},
                },
                architecture={"name": manifest.architecture.name, "arguments": arguments},
                settings={**manifest.settings, "n_way": n_way},
                **manifest.model_dump(
                    include={"algorithm", "data", "outer_step", "engine", "inputs", "origin"}, exclude_none=True
                ),
                metrics=metrics.model_dump(mode="json", exclude={"predictions"}),
                parent={
                    "name": model.ref.name,
                    "digest": model.checkpoint.digest,
                    "adaptation": how.model_dump(),
                },
                support={"classes": metrics.classes, "images": support.labels.bincount().tolist()},
            )
            for other in (BEST, TRAINING_STATE, HISTORY):
                (path.parent / other).unlink(missing_ok=True)  # files of the model that --force replaces
    finally:
        # Do not leave an empty model if saving failed.
        with contextlib.suppress(OSError):
            path.parent.rmdir()
    return name
