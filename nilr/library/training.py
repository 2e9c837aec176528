"""Meta-training in memory."""

from collections.abc import Callable

from nilr.config.meta_train import TrainSettings
from nilr.episodes import EpisodeSampler
from nilr.errors import DivergedError, UsageError
from nilr.library.arguments import checked_integer, checked_settings, naming_arguments
from nilr.library.images import Images, check_images
from nilr.library.models import changed, check_fit, check_model
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
        UsageError: an argument is invalid.
        EpisodeError: there are too few classes or images, or images do not fit the model.
        DivergedError: a number is not finite.

    Examples:
        >>> import nilr
        >>> images = nilr.generate_images("train", per_class=6, image_size=16)
        >>> start = nilr.build_model(filters=4, image_size=16)
        >>> model = nilr.train(start, images, 2, n_query=3)
        >>> bool((nilr.rates(model)["head.weight"] != nilr.rates(start)["head.weight"]).any())
        True
    """
    check_model(model)
    check_images(images)
    checked = checked_settings(
        TrainSettings,
        {"outer_steps": "updates"},
        outer_steps=updates,
        n_shot=n_shot,
        n_query=n_query,
        meta_batch_size=meta_batch_size,
        inner_steps=inner_steps,
        outer_lr=outer_lr,
        grad_clip=grad_clip,
        seed=checked_integer("seed", seed, 0),
    )
    row, device = model.algorithm, model.params["head.bias"].device
    if row.grain == "scalar":
        raise UsageError("a single learned rate for all is trained by the command `meta-train` alone")
    check_fit(model, images)
    n_way = len(model.params["head.bias"])
    sampler = EpisodeSampler(images.on(device), n_way, checked.n_shot, checked.n_query, checked.seed, images.split)
    steps, total = checked.inner_steps or row.inner_steps, checked.outer_steps
    settings = OuterSettings(checked.outer_lr, checked.grad_clip, steps, outer_steps=total, inductive=model.inductive)
    outer = OuterLoop(row, model.params, model.inner_lr, engine=model.engine, settings=settings)
    schedule = Updates([outer], [sampler], checked.meta_batch_size)
    for step in range(total):
        (update,) = schedule.compute(step)
        try:
            outer.apply(update.gradient, update.report, outer_step=step, first_episode=step * checked.meta_batch_size)
        except DivergedError as error:
            hint = "lower `outer_lr`, or `inner_lr` of `build_model`, or set `grad_clip`"
            raise DivergedError(error.message, hint=hint) from error
        on_update(step + 1, update.report.query_loss, update.report.accuracy)
    return changed(model, params=outer.params, inner_lr=outer.inner_lr)
