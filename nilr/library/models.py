"""Models: load, build or wrap one, adapt it, and compute with it."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nilr.config.meta_train import TrainSettings
from nilr.episodes import Episode, stream_seed
from nilr.errors import DivergedError, EpisodeError, UnknownNameError, UsageError
from nilr.library.arguments import (
    check_name,
    check_type,
    checked_integer,
    checked_settings,
    naming_arguments,
    texts,
)
from nilr.library.images import Images
from nilr.meta.algorithms import find_algorithm
from nilr.meta.engine.registry import choose_engine
from nilr.meta.inner_lr import initial_rates, inner_rates
from nilr.meta.model import Model
from nilr.models.conv_body import ConvBody
from nilr.models.learner import Learner
from nilr.models.registry import body_arguments, build_learner, find_body
from nilr.models.wrapping import wrap_module
from nilr.probes import edits
from nilr.recipes.common import loading
from nilr.runtime import find_device
from nilr.store import Store
from nilr.words import counted


@naming_arguments
def load_model(
    model: str | Path, *, arch: str | None = None, device: str | torch.device = "cpu", engine: str = "auto"
) -> loading.LoadedModel:
    """Load a model of `nilr meta-train` or `nilr adapt`, and verify it.

    Args:
        model: a .safetensors file, the directory of a model, or a name in the store: NAME, NAME@best or NAME@last.
        arch: the import path of one's own body that the model was trained with. No other code is imported.
        device: cpu, cuda, cuda:N or auto.
        engine: what executes the inner loop; auto selects it.

    Raises:
        NilrError: there is no such model, it is damaged, or it has one's own body and `arch` does not name it.

    Examples:
        >>> import nilr
        >>> nilr.load_model("no-such-model")
        Traceback (most recent call last):
        nilr.errors.StoreError: no model `no-such-model` in ...
    """
    path = Path(model).expanduser()
    reference = str(path.absolute()) if isinstance(model, Path) or path.is_file() else str(model)
    code = () if arch is None else (arch,)
    return loading.load_model(Store(), reference, device=find_device(str(device)), engine=str(engine), code=code)


@naming_arguments
def build_model(
    arch: str = "conv4",
    *,
    algo: str = "metasgd",
    n_way: int = 5,
    image_size: int = 84,
    inner_lr: float | str | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    engine: str = "auto",
    **arguments: Any,  # noqa: ANN401 - the body's own, which its settings check
) -> Model:
    """Return an untrained model, with the weights and rates that `nilr meta-train` starts from.

    Args:
        arch: a built-in body, or an import path PACKAGE.MODULE:FUNCTION.
        algo: the algorithm, which decides what the inner loop moves and whether rates are learned.
        n_way: N, the classes of its head.
        image_size: height and width of the images, in pixels.
        inner_lr: the fixed inner rate, or the initial value of learned ones, such as "uniform:0.005,0.1"; by default
            the algorithm's.
        seed: of weights and rates.
        device: cpu, cuda, cuda:N or auto.
        engine: what executes the inner loop; auto selects it.
        arguments: the body's own arguments, such as `filters` of conv4.

    Raises:
        NilrError: a name is unknown or an argument is invalid.

    Examples:
        >>> import nilr
        >>> model = nilr.build_model("conv4", filters=8, image_size=16)
        >>> model.params["body.block1.conv.weight"].shape
        torch.Size([8, 3, 3, 3])
    """
    arch, seed, image_size = str(arch), checked_integer("seed", seed, 0), checked_integer("image_size", image_size)
    own = find_body(arch).arguments
    if unknown := [name for name in arguments if name not in own]:
        raise UnknownNameError(f"argument of `{arch}`", unknown[0], own or ["none"])
    settings = checked_settings(TrainSettings, {}, arch=arch, n_way=n_way, **arguments)
    checked, n_way = body_arguments(arch, settings), settings.n_way
    learner = build_learner(arch, n_way=n_way, image_size=image_size, seed=stream_seed(seed, "weights"), **checked)
    model = _model(learner, algo, inner_lr, seed, device, engine)
    return dataclasses.replace(model, architecture=(arch, {"image_size": image_size, **checked}))


@naming_arguments
def wrap(
    module: nn.Module,
    *,
    algo: str = "metasgd",
    n_way: int = 5,
    image_size: int = 84,
    channels: int = 3,
    inner_lr: float | str | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Model:
    """Return a model whose body is one's own module, which maps images (n, C, H, W) to features (n, D) or planes.

    The module is copied with its weights, and never changes. Batch normalisation uses batch statistics, in training and
    in evaluation mode. Layers are the module's children. The engine is `reference`.

    Args:
        module: float32 on the CPU. Its features must be differentiable and must not depend on chance.
        algo: the algorithm; without second derivatives a first-order one, such as fomaml.
        n_way: N, the classes of the head, which is drawn.
        image_size: height and width of the images, in pixels.
        channels: C.
        inner_lr: as in `build_model`.
        seed: of the head and of the rates.
        device: cpu, cuda, cuda:N or auto.

    Raises:
        ModuleError: the module cannot be a body; the error names the layer and shapes.

    Examples:
        >>> import nilr
        >>> from torch import nn
        >>> body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        >>> model = nilr.wrap(body, n_way=3, image_size=16)
        >>> list(nilr.rates(model))[:2], model.learner.feature_dim
        (['body.0.weight', 'body.0.bias'], 32)
        >>> nilr.wrap(nn.Sequential(nn.Flatten(), nn.Linear(7, 5)), image_size=16)
        Traceback (most recent call last):
        nilr.errors.ModuleError: the module `Sequential` fails in `1` (Linear) on images (3, 3, 16, 16): ...
    """
    n_way, seed = checked_integer("n_way", n_way, 2), checked_integer("seed", seed, 0)
    image_size, channels = checked_integer("image_size", image_size), checked_integer("channels", channels)
    body, feature_dim = wrap_module(module, image_size=image_size, channels=channels)
    with torch.random.fork_rng(devices=[]):
        learner = Learner(body, feature_dim, n_way)
    learner.initialise(torch.Generator().manual_seed(stream_seed(seed, "weights")))
    return _model(learner, algo, inner_lr, seed, device, "auto")


def _model(
    learner: Learner, algo: str, inner_lr: float | str | None, seed: int, device: str | torch.device, engine: str
) -> Model:
    row, place = find_algorithm(str(algo)), find_device(str(device))
    if inner_lr is not None:
        row = dataclasses.replace(row, inner_lr_init=str(inner_lr))
    learner.body.check_order(row.order)
    params = {name: value.to(place) for name, value in learner.initial_params().items()}
    numbers = initial_rates(row, params, learner.kinds, stream_seed(seed, "rates"))
    return Model(
        learner=learner,
        algorithm=row,
        engine=choose_engine(str(engine), learner, place),
        params=params,
        inner_lr=inner_rates(row, numbers, params, learner.kinds),
    )


@naming_arguments
def adapt(
    model: Model,
    support: Episode | tuple[Tensor, Tensor],
    *,
    steps: int | None = None,
    rates: str | float = "learned",
    parts: str | Iterable[str] = ("all",),
    seed: int = 0,
) -> Model:
    """Return the model adapted to the support images of an episode, or to (images, labels); `model` is unchanged.

    Args:
        model: to adapt.
        support: an episode; or images (n, 3, S, S) in [0, 1] and labels (n,), int64, from 0 to N - 1.
        steps: inner steps; by default those of the algorithm in evaluation.
        rates: an edit of the inner rates, such as "absolute" or "zero-negative", or a number for all.
        parts: what moves: all, body, head, or layers.
        seed: of the edits that shuffle.

    Raises:
        NilrError: the images do not fit the model, a name is unknown, or an adapted parameter is not finite.

    Examples:
        >>> import nilr
        >>> episode = nilr.sample_episode(nilr.generate_images(per_class=4, image_size=16), n_query=2)
        >>> model = nilr.build_model(filters=8, image_size=16)
        >>> adapted = nilr.adapt(model, episode, rates="absolute")
        >>> bool((adapted.params["head.weight"] != model.params["head.weight"]).any())
        True
    """
    if isinstance(support, Episode):
        support = support.support_x, support.support_y
    if not isinstance(support, tuple | list) or [isinstance(each, Tensor) for each in support] != [True, True]:
        found = ", ".join(type(each).__name__ for each in support) if isinstance(support, tuple | list) else ""
        raise UsageError(
            f"`support` is neither an Episode nor a pair of tensors, but has type {type(support).__name__}"
            + (f" of {found}" if found else ""),
            hint="give what `sample_episode` returns, or (images, labels); torch.from_numpy makes tensors of arrays",
        )
    seed = checked_integer("seed", seed, 0)
    x, y = support
    x = checked_images(model, x)
    n_way = len(model.params["head.bias"])
    if y.dtype != torch.int64 or y.shape != x.shape[:1] or not bool(((y >= 0) & (y < n_way)).all()):
        raise EpisodeError(
            f"the labels do not fit {len(x)} images and a head for {n_way} classes: {y.dtype} {tuple(y.shape)}",
            hint=f"give int64 labels from 0 to {n_way - 1}, one for each image",
        )
    steps = model.algorithm.eval_inner_steps if steps is None else checked_integer("steps", steps, 0)
    if not (names := texts(parts)):
        raise UsageError("`parts` is empty", hint="give all, body, head, or layers")
    moved = edits.rates_of_part(model.inner_lr, model.params, names)
    params = edits.adapt(
        model.engine,
        model.params,
        edits.edited(moved, model.params, str(rates), seed=seed),
        (x, y.to(x.device)),
        steps=steps,
        norm_matched=rates == edits.NORM_MATCHED,
    )
    if broken := [name for name in moved if not bool(params[name].isfinite().all())]:
        raise DivergedError(
            f"the adapted parameter `{broken[0]}` is not finite",
            hint="use smaller `rates` or fewer `steps`",
        )
    return changed(model, params=dict(params))


def changed(model: Model, **tensors: Mapping[str, Tensor]) -> Model:
    """Return a model in memory with other parameters or rates, also of a model from a file."""
    return Model(**{field.name: getattr(model, field.name) for field in dataclasses.fields(Model)} | tensors)


@naming_arguments
def features(model: Model, x: Tensor, *, layer: str | None = None) -> Tensor:
    """Return the features of images, or the flattened outputs of a layer, (n, D).

    Batch normalisation uses the statistics of the images `x`, so a feature depends on the whole batch.

    Args:
        model: its parameters make the features.
        x: images (n, 3, S, S), float32 in [0, 1].
        layer: the name of a layer; None: the features.

    Raises:
        NilrError: the images do not fit the model, or it has no such layer.

    Examples:
        >>> import nilr
        >>> images = nilr.generate_images(per_class=4, image_size=16)
        >>> model = nilr.build_model(filters=8, image_size=16)
        >>> nilr.features(model, images.of_class("class080")).shape
        torch.Size([4, 8])
        >>> nilr.features(model, images.of_class("class080"), layer="block1").shape
        torch.Size([4, 512])
    """
    x = checked_images(model, x)
    if layer is None:
        return model.engine.features(model.params, x)
    check_name("layer", layer, model.learner.body.layers)
    return model.engine.activations(model.params, x)[layer].flatten(1)


def logits(model: Model, x: Tensor) -> Tensor:
    """Return the logits (n, N) of images (n, 3, S, S), by the model's own head; see `features`.

    Examples:
        >>> import nilr
        >>> images = nilr.generate_images(per_class=4, image_size=16)
        >>> nilr.logits(nilr.build_model(filters=8, image_size=16, n_way=3), images.of_class("class080")).shape
        torch.Size([4, 3])
    """
    return linear(features(model, x), model.params["head.weight"], model.params["head.bias"])


def rates(model: Model) -> dict[str, Tensor]:
    """Return a copy of the inner rates by the name of the parameter that they move.

    A rate is one number (), has the shape of its parameter, or has one dimension more: one rate per step, (K, ...).

    Examples:
        >>> import nilr
        >>> rates = nilr.rates(nilr.build_model(algo="maml", filters=8, image_size=16))
        >>> round(rates["head.weight"].item(), 3)
        0.05
    """
    check_model(model)
    return {name: rate.detach().clone() for name, rate in model.inner_lr.items()}


def check_model(model: object) -> None:
    """Check that an argument is a `Model`; UsageError if not."""
    check_type("model", model, Model, "give what `load_model` returns")


def check_fit(model: Model, images: Images) -> None:
    """Check that images fit the model; EpisodeError if they do not."""
    if (made_for := _image_size(model)) not in (None, images.image_size):
        raise EpisodeError(
            f"images are {images.image_size} px, and the model was built for {made_for} px",
            hint="give images of this size, or build a model for theirs",
        )
    checked_images(model, images.packed.gather(torch.arange(min(2, len(images)), device=images.packed.device)))


def _image_size(model: Model) -> int | None:
    """Return the size of the images that a model was trained or built for, if it is known."""
    if isinstance(model, loading.LoadedModel):
        return model.checkpoint.manifest.data.image_size
    return None if model.architecture is None else model.architecture[1].get("image_size")


def checked_images(model: Model, x: Tensor) -> Tensor:
    """Return images on the model's device; EpisodeError if they do not fit the model."""
    check_model(model)
    check_type("x", x, Tensor, "give a tensor; torch.from_numpy makes one of an array")
    if x.dim() != 4 or not x.is_floating_point() or not len(x):
        raise EpisodeError(
            f"images are {x.dtype} {tuple(x.shape)}, and the model takes floating-point numbers (n, C, H, W)",
            hint="scale pixels to [0, 1], and put channels first",
        )
    if not bool(x.isfinite().all()):
        raise EpisodeError("images have numbers that are not finite", hint="scale pixels to [0, 1]")
    body, channels = model.learner.body, x.shape[1]
    takes = body.units[0].in_channels if isinstance(body, ConvBody) else getattr(body, "image_shape", x.shape[1:])[0]
    if channels != takes:
        raise EpisodeError(
            f"images {tuple(x.shape)} have {counted(channels, 'channel')}, and the model takes {takes}",
            hint="use images (n, C, H, W) of the kind that the model was built for"
            + ("; x.expand(-1, 3, -1, -1) makes RGB of grey" if (channels, takes) == (1, 3) else ""),
        )
    like = model.params["head.weight"]
    x = x.to(like)
    try:
        found = model.engine.features(model.params, x[:2]).shape[1]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise EpisodeError(f"images {tuple(x.shape)} do not fit the model: {reason}") from error
    if found != like.shape[1]:
        raise EpisodeError(
            f"images {tuple(x.shape)} give {found} features, and the model's head takes {like.shape[1]}",
            hint="use images of the size that the model was built for",
        )
    return x
