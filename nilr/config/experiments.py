"""The experiments of `nilr reproduce`: packs, trainings and probes of each preset."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nilr.config.base import MINI_IMAGENET, SYNTHETIC
from nilr.config.evaluation import RATES


@dataclass(frozen=True)
class Run:
    """A training that is repeated over seeds."""

    name: str  # of the run
    why: str  # its purpose
    train: Mapping[
        str, Any
    ]  # settings of `nilr meta-train`; one of `REFERENCES` names an earlier run, of the same seed
    claimed: bool = False  # whether the paper's claims are about this run
    varied: bool = False  # whether it repeats a claimed run with one setting changed, to check the claims again
    counterpart: str | None = None  # name of an earlier run that it is compared with, seed by seed; one choice differs
    edits: tuple[str, ...] = ("learned",)  # the edits of the learned rates that its models are probed with
    grid: str | None = None  # the rate grid that it belongs to with its `inner_lr`
    fewer_seeds: int = 0  # the number of seeds less than the experiment's; at least one seed remains


@dataclass(frozen=True)
class Experiment:
    """What a preset runs."""

    data: str  # name of the pack
    pack: Mapping[str, Any]  # settings of `nilr prepare-data` that make the pack
    seeds: int  # the default number of seeds
    train: Mapping[str, Any]  # settings that all trainings share
    runs: tuple[Run, ...]  # the trainings, in order
    n_episodes: int  # number of episodes of every probe
    n_episodes_again: int  # number of episodes of the probes with other choices
    # further settings of every probe, except those with other choices
    probe: Mapping[str, Any] = field(default_factory=dict)
    # further settings of the probe of the claimed runs' first seed
    closer: Mapping[str, Any] = field(default_factory=dict)
    # settings of `nilr probe`, by name, with which the claims are checked again
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    home: Path | None = None  # the experiment's store; None: the user's store
    models: str | None = None  # the preset whose models it shares, by their names; None: it has its own


_CLOSER: dict[str, Any] = {"layers": ("all",), "similarity": True, "steps_curve": True, "shared_classes": True}
_CHOICES: dict[str, dict[str, Any]] = {
    "euclidean distance": {"distance": "euclidean"},
    "attention over all neighbours": {"neighbours": ("attention",)},
    "5-shot, nearest": {"n_shot": 5},
    "5-shot, class mean": {"n_shot": 5, "neighbours": ("class-mean",)},
    "task B drawn from any classes": {"task_b": "any"},
    "1 query per class": {"n_query": 1},
    "5 queries per class": {"n_query": 5},
    "batch statistics together": {"batch_stats": "together"},
    "batch statistics inductive": {"batch_stats": "inductive"},
    "1 inner step": {"inner_steps": 1},
    "5 inner steps": {"inner_steps": 5},
    "10 inner steps": {"inner_steps": 10},
}


def _runs(*, maml: Mapping[str, Any], metasgd: Mapping[str, Any], one_step_lr: float) -> tuple[Run, ...]:
    """Return the paper's two runs, and a control for each of them."""
    one_step = {"algo": "maml", **maml, "inner_steps": 1, "eval_inner_steps": 1, "inner_lr": one_step_lr}
    non_negative = {"algo": "metasgd", **metasgd, "rate_constraint": "non-negative"}
    return (
        Run("maml", "the paper's first network", {"algo": "maml", **maml}, claimed=True),
        Run("metasgd", "the paper's second", {"algo": "metasgd", **metasgd}, claimed=True, edits=RATES),
        Run("maml-1step", "fixed rates, with as many steps as Meta-SGD takes", one_step, counterpart="maml"),
        Run("metasgd-nonneg", "learned rates, none of which may be negative", non_negative, counterpart="metasgd"),
    )


def _metasgd_from(name: str, start: str) -> Run:
    """Return Meta-SGD's run with other initial rates, with fewer seeds."""
    why, train = f"learned rates that start at {start}", {"algo": "metasgd", "inner_lr_init": start}
    return Run(f"metasgd-init-{name}", why, train, varied=True, counterpart="metasgd", fewer_seeds=2)


def _controls() -> tuple[Run, ...]:
    """Return the two runs of `cpu`, and trainings that differ from Meta-SGD's in one choice each."""
    start = {"algo": "metasgd", "inner_lr_init": "0.01"}
    half = {"algo": "metasgd", "inner_lr_init": "random-sign:0.01"}
    maml, metasgd, _, non_negative = _runs(maml={}, metasgd={"inner_lr_init": "0.01"}, one_step_lr=0.2)
    means = {"algo": "maml", "inner_steps": 1, "eval_inner_steps": 1, "norm_adapted": True, "inner_lr_from": "metasgd"}
    norms = {**start, "rate_constraint": "non-negative", "rate_norm_from": "metasgd"}
    fixed, steps = {**half, "rate_constraint": "fixed-signs"}, {**start, "inner_steps": 5, "eval_inner_steps": 5}
    return (
        maml,
        dataclasses.replace(metasgd, edits=("learned",)),
        non_negative,  # the same as signs that are fixed at their start, because all start positive
        Run("maml-mean-rates", "fixed rates: Meta-SGD's mean of each tensor", means, counterpart="metasgd"),
        Run("metasgd-nonneg-norm", "non-negative rates of the same norm", norms, counterpart="metasgd"),
        Run("metasgd-random-sign", "rates of which half start negative", half, counterpart="metasgd"),
        Run("metasgd-fixed-signs", "half negative, signs kept", fixed, counterpart="metasgd-random-sign"),
        Run("metasgd-5step", "learned rates with five steps, as many as MAML's", steps, counterpart="metasgd"),
    )


GRID_RATES = (-0.1, -0.05, -0.01, 0.0, 0.01, 0.05, 0.1, 0.2)


def _grid() -> tuple[Run, ...]:
    """Return MAML and one-step MAML trained at each rate of the grid, and adapted with each of them."""
    edits = ("learned", *map(str, GRID_RATES))
    one_step = {"inner_steps": 1, "eval_inner_steps": 1}
    return tuple(
        Run(f"{grid}-rate{rate:g}", f"fixed rate {rate:g}", {**train, "inner_lr": rate}, edits=edits, grid=grid)
        for grid, train in (("maml", {"algo": "maml"}), ("maml-1step", {"algo": "maml", **one_step}))
        for rate in GRID_RATES
    )


# docs/run-the-experiments.md explains the sizes, the initial rate of Meta-SGD and the rate of one-step MAML.
EXPERIMENTS: dict[str, Experiment] = {
    "paper": Experiment(
        data=MINI_IMAGENET,
        pack={"image_size": 84},
        seeds=5,
        train={},
        runs=_runs(maml={"preset": "finn-1shot"}, metasgd={"preset": "li-metasgd"}, one_step_lr=0.2),
        n_episodes=2_000,
        n_episodes_again=1_000,
        closer=_CLOSER,
        choices=_CHOICES,
    ),
    "cpu": Experiment(
        data="mini-imagenet-32",
        pack={"image_size": 32},
        seeds=3,
        train={"outer_steps": 9_000, "eval_episodes": 300},
        runs=(
            *_runs(maml={}, metasgd={"inner_lr_init": "0.01"}, one_step_lr=0.2),
            _metasgd_from("0.001", "0.001"),
            _metasgd_from("0.05", "0.05"),
            _metasgd_from("draw", "uniform:0.005,0.1"),
        ),
        n_episodes=600,
        n_episodes_again=300,
        closer=_CLOSER,
        choices=_CHOICES,
    ),
    "controls": Experiment(
        data="mini-imagenet-32",
        pack={"image_size": 32},
        seeds=5,
        train={"outer_steps": 9_000, "eval_episodes": 300},
        runs=_controls(),
        n_episodes=600,
        n_episodes_again=300,
        models="cpu",
    ),
    "grid": Experiment(
        data="mini-imagenet-32",
        pack={"image_size": 32},
        seeds=3,
        train={"outer_steps": 3_000, "eval_episodes": 300},
        runs=_grid(),
        n_episodes=300,
        n_episodes_again=300,
        probe={"own_head": True},
    ),
    "demo": Experiment(
        data=SYNTHETIC,
        pack={"synthetic": True, "image_size": 16, "limit_per_class": 40},
        seeds=3,
        train={"filters": 8, "outer_steps": 120, "eval_every": 0, "save_every": 100},
        runs=_runs(maml={}, metasgd={"inner_lr_init": "0.01"}, one_step_lr=0.2),
        n_episodes=50,
        n_episodes_again=20,
        closer=_CLOSER,
        choices={name: _CHOICES[name] for name in ("euclidean distance", "1 inner step")},
        home=Path("nilr-reproduce"),
    ),
}
