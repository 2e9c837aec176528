"""Meta-training in memory."""

from collections.abc import Callable

from nilr.episodes import EpisodeSampler
from nilr.errors import DivergedError, UsageError
from nilr.library.arguments import naming_arguments
from nilr.library.images import Images
from nilr.library.models import changed
from nilr.meta.model import Model
from nilr.meta.outer_loop import OuterLoop, OuterSettings
from nilr.meta.updates import Updates

OnUpdate = Callable[[int, float, float], object]


@naming_arguments
def train(
    model: Model,
    images: Images,
    updates: int = 100,
    *,
    n_shot: int = 1,
    n_query: int = 15,
    meta_batch_size: int = 4,
    inner_steps: int | None = None,
    outer_lr: float = 1e-3,
    grad_clip: float | None = None,
    seed: int = 0,
    on_update: OnUpdate = lambda *_: None,
) -> Model:
    """Return the model after updates of the outer loop (Adam), from its parameters and rates; `model` is unchanged.

    The updates are those of `nilr meta-train`, which also validates, saves and resumes. Nothing is saved here.

    Args:
        model: from `build_model`, `wrap` or an earlier training.
        images: to draw episodes from, with as many classes each as the model's head has.
        updates: number of updates.
        n_shot: support images per class.
        n_query: query images per class.
        meta_batch_size: episodes per update.
        inner_steps: gradient steps of the inner loop; by default the algorithm's.
        outer_lr: Adam's rate.
        grad_clip: bound of each element of the meta-gradient.
        seed: of the episodes.
        on_update: called after each update with its number from 1, the mean query loss and the accuracy.

    Raises:
        EpisodeError: there are too few classes or images.
        DivergedError: a number is not finite.

    Examples:
        >>> import nilr
        >>> images = nilr.generate_images("train", per_class=6, image_size=16)
        >>> start = nilr.build_model(filters=4, image_size=16)
        >>> model = nilr.train(start, images, 2, n_query=3)
        >>> bool((nilr.rates(model)["head.weight"] != nilr.rates(start)["head.weight"]).any())
        True
    """
    row, device = model.algorithm, model.params["head.bias"].device
    if min(updates, n_shot, n_query, meta_batch_size) < 1 or (inner_steps is not None and inner_steps < 1):
        raise UsageError("a training needs at least one update, image, episode and step", hint="give positive numbers")
    if row.grain == "scalar":
        raise UsageError("a single learned rate for all is trained by the command `meta-train` alone")
    sampler = EpisodeSampler(images.on(device), len(model.params["head.bias"]), n_shot, n_query, seed, images.split)
    settings = OuterSettings(
        outer_lr, grad_clip, inner_steps or row.inner_steps, outer_steps=updates, inductive=model.inductive
    )
    outer = OuterLoop(row, model.params, model.inner_lr, engine=model.engine, settings=settings)
    schedule = Updates([outer], [sampler], meta_batch_size)
    for step in range(updates):
        (update,) = schedule.compute(step)
        try:
            outer.apply(update.gradient, update.report, outer_step=step, first_episode=step * meta_batch_size)
        except DivergedError as error:
            hint = "lower `outer_lr`, or `inner_lr` of `build_model`, or set `grad_clip`"
            raise DivergedError(error.message, hint=hint) from error
        on_update(step + 1, update.report.query_loss, update.report.accuracy)
    return changed(model, params=outer.params, inner_lr=outer.inner_lr)
