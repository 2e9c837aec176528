"""The experiments of `nilr reproduce`, as data: what is trained, what is asked of each model, and on which pack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nilr.config.base import MINI_IMAGENET, SYNTHETIC

CAUSAL_TABLE = (
    "learned",
    "zero-negative",
    "zero-positive",
    "absolute",
    "negated",
    "shuffled-signs",
    "shuffled",
    "tensor-mean",
    "norm-matched",
)


@dataclass(frozen=True)
class Run:
    """A training that is repeated over seeds.

    Attributes:
        name: what it is called.
        why: what it is there for.
        train: settings of `nilr meta-train`.
        claimed: whether the paper's signs are about it, as CLAIMS has them for its algorithm.
        varied: whether it is such a run trained with another choice, under which the signs are asked again.
        counterpart: name of an earlier run that it is compared with, seed by seed; it differs from it in one choice.
        edits: the edits of the rates that its models are probed with.
        fewer_seeds: by how many its seeds are fewer than the experiment's; one is left at least.
    """

    name: str
    why: str
    train: Mapping[str, Any]
    claimed: bool = False
    varied: bool = False
    counterpart: str | None = None
    edits: tuple[str, ...] = ("learned",)
    fewer_seeds: int = 0


@dataclass(frozen=True)
class Experiment:
    """What a preset does, in the order of `runs`.

    Attributes:
        data: the pack.
        pack: settings of `nilr prepare-data` that make it of the sources, or of nothing where they say `synthetic`.
        seeds: how many, by default.
        train: what all trainings share.
        runs: the trainings.
        n_episodes: episodes of every probe.
        n_episodes_again: episodes of the probes under other choices.
        closer: further settings of the probe of the claimed runs' first seed.
        choices: settings of `nilr probe`, by name, under which the paper's signs are asked again of the claimed runs.
        home: of its own store; None for the user's.
    """

    data: str
    pack: Mapping[str, Any]
    seeds: int
    train: Mapping[str, Any]
    runs: tuple[Run, ...]
    n_episodes: int
    n_episodes_again: int
    closer: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    home: Path | None = None


_CLOSER: dict[str, Any] = {
    "layers": ("all",),
    "similarity": True,
    "steps_curve": True,
    "shared_classes": True,
}

_CHOICES: dict[str, dict[str, Any]] = {
    "euclidean distance": {"distance": "euclidean"},
    "attention over all neighbours": {"neighbours": ("attention",)},
    "5-shot, nearest": {"n_shot": 5},
    "5-shot, class mean": {"n_shot": 5, "neighbours": ("class-mean",)},
    "task B drawn from any classes": {"task_b": "any"},
    "1 query per class": {"n_query": 1},
    "5 queries per class": {"n_query": 5},
    "batch statistics together": {"batch_stats": "together"},
    "1 inner step": {"inner_steps": 1},
    "5 inner steps": {"inner_steps": 5},
    "10 inner steps": {"inner_steps": 10},
}


def _runs(*, maml: Mapping[str, Any], metasgd: Mapping[str, Any], one_step_lr: float) -> tuple[Run, ...]:
    """Return the runs that the claim takes: the paper's two, and what each of them could be mistaken for."""
    one_step = {"inner_steps": 1, "eval_inner_steps": 1, "inner_lr": one_step_lr}
    return (
        Run("maml", "the paper's first network", {"algo": "maml", **maml}, claimed=True),
        Run("metasgd", "the paper's second", {"algo": "metasgd", **metasgd}, claimed=True, edits=CAUSAL_TABLE),
        Run(
            "maml-1step",
            "fixed rates, with as many steps as Meta-SGD takes",
            {"algo": "maml", **maml, **one_step},
            counterpart="maml",
        ),
        Run(
            "metasgd-nonneg",
            "learned rates, none of which may be negative",
            {"algo": "metasgd", **metasgd, "rate_constraint": "non-negative"},
            counterpart="metasgd",
        ),
    )


def _initial_rates(starts: Mapping[str, str]) -> tuple[Run, ...]:
    """Return Meta-SGD's run from other initial rates, over fewer seeds."""
    return tuple(
        Run(
            f"metasgd-init-{name}",
            f"learned rates that start at {start}",
            {"algo": "metasgd", "inner_lr_init": start},
            varied=True,
            counterpart="metasgd",
            fewer_seeds=2,
        )
        for name, start in starts.items()
    )


# Why these sizes, this initial rate of Meta-SGD and this rate of one-step MAML: docs/reproduce.md.
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
            *_initial_rates({"0.001": "0.001", "0.05": "0.05", "draw": "uniform:0.005,0.1"}),
        ),
        n_episodes=600,
        n_episodes_again=300,
        closer=_CLOSER,
        choices=_CHOICES,
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
