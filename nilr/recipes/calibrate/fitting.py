"""Which anchors a model is compared with, and how it is evaluated for each."""

from collections.abc import Iterator
from typing import Any

from nilr.checkpoint import Manifest
from nilr.history import completed_updates
from nilr.meta.algorithms import ALGORITHMS
from nilr.recipes.calibrate.anchors import RANDOM_FEATURES
from nilr.recipes.common.loading import LoadedModel
from nilr.results.calibrate import Anchor, Judging
from nilr.store import newest_manifest
from nilr.words import counted

# What an unreported value is taken to be.
UPDATES, QUERIES = 60_000, 15

# fields of an algorithm's row that no published recipe changes
_OF_ALGORITHM = ("moves", "norm_adapted", "order", "grain", "per_step", "constraint", "rectified")


def is_same_experiment(anchor: Anchor, model: LoadedModel, pack: str | None) -> bool:
    """Return whether algorithm, body, dataset, ways and shots of a model are those of an anchor.

    Random features are compared with every algorithm. A pack is of a dataset if its name is the dataset's, or begins
    with it and a hyphen; `pack` is that of --data.
    """
    manifest = model.checkpoint.manifest
    return (
        anchor.algorithm in (model.algorithm.name, RANDOM_FEATURES)
        and anchor.body == manifest.architecture.name
        and all(_is_of(anchor.dataset, name) for name in (manifest.data.name, pack) if name is not None)
        and (anchor.n_way, anchor.n_shot) == (model.settings.get("n_way"), model.settings.get("n_shot"))
    )


def find_differences(anchor: Anchor, model: LoadedModel) -> list[str]:
    """Return why a model of the same experiment is not comparable with an anchor; empty if it is."""
    manifest = model.checkpoint.manifest
    differences = list(_differences_of_network(anchor, manifest))
    if anchor.algorithm == RANDOM_FEATURES:
        return differences
    differences += [word for word, found in _differences_of_recipe(anchor, model).items() if found]
    updates, needed = trained_updates(model), anchor.outer_steps or UPDATES
    if updates < needed:
        differences.append(f"{updates:,} of {needed:,} updates")
    return differences


def choose_judging(anchor: Anchor, model: LoadedModel) -> Judging:
    """Return how a model is evaluated for an anchor; a value that the source does not report is assumed."""
    features = anchor.measured == "features"
    steps = model.algorithm.eval_inner_steps if anchor.eval_inner_steps is None else anchor.eval_inner_steps
    reported = {"n_query": anchor.n_query, "batch_stats": anchor.batch_stats}
    if not features:
        reported["inner_steps"] = anchor.eval_inner_steps
    return Judging(
        measured=anchor.measured,
        n_query=anchor.n_query or QUERIES,
        inner_steps=None if features else steps,
        batch_stats=anchor.batch_stats or "apart",
        assumed=[name for name, value in reported.items() if value is None],
    )


def trained_updates(model: LoadedModel) -> int:
    """Return the updates of a model's training, which continues after its best checkpoint.

    A single checkpoint without its history counts as far as it was trained itself.
    """
    manifest = model.checkpoint.manifest
    if model.ref.checkpoint != "best":
        return manifest.outer_step
    return completed_updates(model.ref.directory, newest_manifest(model.ref.directory) or manifest)


def _is_of(dataset: str, pack: str) -> bool:
    return pack == dataset or pack.startswith(f"{dataset}-")


def _differences_of_network(anchor: Anchor, manifest: Manifest) -> Iterator[str]:
    sizes, size = manifest.architecture.arguments, manifest.data.image_size
    filters, widths = sizes.get("filters"), sizes.get("widths")
    if filters is not None and anchor.filters is None:
        yield "filters not reported"
    elif anchor.filters not in (None, filters):
        yield f"{anchor.filters} filters, not {filters}"
    if widths is not None and anchor.widths is None:
        yield "widths not reported"
    elif anchor.widths not in (None, widths):
        yield f"widths {_listed(anchor.widths)}, not {_listed(widths)}"
    if anchor.body_differs is not None:
        yield anchor.body_differs
    if anchor.image_size != size:
        yield f"{anchor.image_size} px, not {size} px"


def _listed(widths: Any) -> str:  # noqa: ANN401 - a list from a manifest
    return ",".join(map(str, widths))


def _differences_of_recipe(anchor: Anchor, model: LoadedModel) -> dict[str, bool]:
    """Return what may make the trainings different, and whether it does."""
    row, steps = model.algorithm, anchor.inner_steps
    usual = ALGORITHMS.get(row.name, row)
    changed = [f"{name} {getattr(row, name)}" for name in _OF_ALGORITHM if getattr(row, name) != getattr(usual, name)]
    statistics = model.settings.get("batch_stats") == "inductive"
    return {
        "adapted model": model.checkpoint.manifest.parent is not None,
        "pretrained body": anchor.pretrained,
        "ensemble": anchor.ensemble,
        ", ".join(changed).replace("_", " "): bool(changed),
        f"inner rate {row.inner_lr_init}": not row.learns_rates and (row.fixed_rate or 0) <= 0,
        "rates scaled to another model's": model.settings.get("rate_norm_from") is not None,
        f"trained with {counted(steps or 0, 'inner step')}, not {row.inner_steps}": steps
        not in (None, row.inner_steps),
        "trained with inductive batch statistics": statistics and anchor.batch_stats != "inductive",
    }
