"""The model whose rates a training uses: `--inner-lr-from` and `--rate-norm-from`."""

from nilr.checkpoint import Checkpoint, load_checkpoint
from nilr.config.meta_train import TrainSettings
from nilr.errors import StoreError, UsageError
from nilr.meta.inner_lr import scale_to_norms, tensor_means, tensor_norms
from nilr.models.learner import Params, Tensors
from nilr.recipes.common.loading import find_reference
from nilr.results.records import Reference
from nilr.store import Store
from nilr.training_state import TrainingState


def read_reference(
    settings: TrainSettings, stored: TrainingState | None, store: Store
) -> tuple[Reference | None, Checkpoint | None]:
    """Return the model whose rates a training uses, and for a new training its checkpoint.

    A resumed training has what it needs in its state. With `--resume auto` the settings name the model again.

    Raises:
        StoreError: there is no such model, or it is not the one that the resumed training used.
    """
    if stored is not None and settings.resume != "auto":
        return stored.reference, None
    found = find_reference(store, settings)
    if found is None:
        return None, None
    ref, reference = found
    if stored is None:
        return reference, load_checkpoint(ref.file)
    if stored.reference is None or stored.reference.digest != reference.digest:
        before = stored.reference.digest[:12] if stored.reference else "unknown"
        raise StoreError(
            f"model `{settings.name}` uses the rates of another `{ref.name}` (digest {before}) than the present one "
            f"({reference.digest[:12]})",
            hint="restore that model, or train this one again with --force or another --name",
        )
    return reference, None


def with_reference(
    settings: TrainSettings, checkpoint: Checkpoint | None, numbers: Params, params: Tensors
) -> tuple[Params, Params]:
    """Return a training's first learned numbers (or fixed rates), and the norms to which it scales them, by tensor.

    Args:
        settings: of the training.
        checkpoint: of the model whose rates it uses; None if it uses none, or if its state has the values.
        numbers: the numbers by `initial_rates`.
        params: the meta-initialisation.

    Raises:
        UsageError: the model's tensors do not fit.
    """
    if checkpoint is None:
        return numbers, {name: value.new_zeros(()) for name, value in numbers.items() if settings.rate_norm_from}
    for name, number in numbers.items():
        rate = checkpoint.inner_lr.get(name)
        same = rate is not None and checkpoint.params[name].shape == params[name].shape
        if rate is None or not same or (settings.rate_norm_from and rate.shape != number.shape):
            raise UsageError(
                f"model `{settings.reference}` has no rates that fit `{name}` of this training",
                hint="name a model of the same architecture and --n-way that adapts the same tensors; "
                "--rate-norm-from needs the same --rate-grain and --rate-per-step too",
            )
    rates = {name: checkpoint.inner_lr[name].to(number) for name, number in numbers.items()}
    if settings.inner_lr_from is not None:
        return tensor_means(rates), {}
    norms = tensor_norms(rates)
    scale_to_norms(numbers, norms)
    return numbers, norms
