"""Settings of `nilr meta-train`, and the recipes that `--preset` names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nilr.config.base import MINI_IMAGENET, ChunkSettings, OnNan, OuterLRSchedule, RateGrain, setting


class TrainSettings(ChunkSettings):
    """`nilr meta-train`: a meta-initialisation, and rates, from a packed dataset."""

    data: str = setting(MINI_IMAGENET, "Pack to train on: a name in the store or a path.")
    algo: str = setting("maml", "Algorithm: {algorithms}.")
    arch: str = setting("conv4", "Architecture of the body: conv4.")
    filters: int = setting(32, "Channels of each of the body's convolutions.", ge=1, le=4096)
    preset: str | None = setting(None, "A full recipe that flags override: {presets}.", shown="none")
    name: str | None = setting(None, "Name of the model in the registry.", shown="a fresh one from --algo", env=False)
    seeds: int = setting(
        1, "Seeds to train at once: --seed and those after it, as models NAME-seed0, NAME-seed1...", ge=1, le=1000
    )
    n_way: int = setting(5, "Classes per episode.", ge=2, le=1000)
    n_shot: int = setting(1, "Support images per class.", ge=1, le=1000)
    n_query: int = setting(15, "Query images per class.", ge=1, le=1000)
    inner_steps: int | None = setting(
        None, "Gradient steps of the inner loop in training.", shown="as the algorithm's row", ge=1, le=1000
    )
    eval_inner_steps: int | None = setting(
        None,
        "Gradient steps of the inner loop in validation and judging.",
        shown="as the algorithm's row",
        ge=0,
        le=1000,
    )
    inner_lr: float | None = setting(
        None, "Fixed inner rate, on a mean loss.", shown="as the algorithm's row", gt=0, le=1000, allow_inf_nan=False
    )
    inner_lr_init: str | None = setting(
        None,
        "Where learned rates start: a number, uniform:LOW,HIGH (one draw for all) or uniform-each:LOW,HIGH "
        "(one for each).",
        shown="as the algorithm's row",
    )
    rate_grain: RateGrain | None = setting(
        None,
        "What has a learned rate of its own: every element of a parameter, every parameter tensor, or scalar: one rate "
        "for all.",
        shown="as the algorithm's row",
    )
    rate_per_step: bool | None = setting(
        None,
        "Learn rates for each of --inner-steps apart; steps beyond them take the last one's.",
        shown="as the algorithm's row",
    )
    rate_constraint: str | None = setting(
        None,
        "Where learned rates are brought back to after every outer step: free, non-negative or bounded:LOW,HIGH.",
        shown="as the algorithm's row",
    )
    norm_adapted: bool | None = setting(
        None, "Let the inner loop move norm scale and shift.", shown="as the algorithm's row"
    )
    outer_lr: float = setting(1e-3, "Adam's rate for the outer step.", gt=0, le=1000, allow_inf_nan=False)
    outer_lr_schedule: OuterLRSchedule = setting(
        "constant", "Whether Adam's rate stays, or falls over the whole run along half a cosine to 0."
    )
    outer_steps: int = setting(60_000, "Outer updates of the whole run.", ge=1)
    meta_batch_size: int = setting(4, "Episodes per outer update.", ge=1, le=4096)
    grad_clip: float | None = setting(
        None,
        "Clip the meta-gradient by value (of a mean loss over episodes and queries).",
        shown="no clipping",
        gt=0,
        allow_inf_nan=False,
    )
    multi_step_loss: bool = setting(
        False,
        "Learn from the query losses after all inner steps, not the last alone, with weights that fade over the first "
        "15 % of the run.",
    )
    on_nan: OnNan = setting(
        "stop",
        "At a query loss or a meta-gradient that is not finite: save the last good state and stop, or skip: leave the "
        "update out and go on, at most 10 times in a row.",
    )
    eval_every: int = setting(
        1_000, "Outer updates between validations, and one at the end; 0: no validation at all.", ge=0
    )
    eval_episodes: int = setting(200, "Episodes per validation.", ge=2)
    save_every: int | None = setting(
        None, "Outer updates between saves.", shown="500, or 5 minutes, whichever comes first", ge=1
    )
    log_every: int = setting(10, "Outer updates between lines of history.jsonl.", ge=1)
    tensorboard: Path | None = setting(
        None, "Directory for TensorBoard's events (needs the extra `tensorboard`).", shown="none"
    )
    resume: str = setting("never", "never, auto (with --name), or the model (name or path) to go on with.", env=False)
    force: bool = setting(False, "Replace a model that has the same name.", env=False)

    @classmethod
    def from_stored(cls, values: Mapping[str, Any]) -> TrainSettings:
        """Return stored settings: names that this version does not have are ignored, missing ones get defaults.

        Raises:
            ValidationError: a value is invalid.
        """
        return cls.model_validate({name: value for name, value in values.items() if name in cls.model_fields})


# Finn clips at 10 a meta-gradient of query losses summed over 75 images and divided by the shots; ours are means over
# images, so his bound is 10/75 at 1-shot and 10/15 at 5-shot. His inner rate, 0.01 on a loss summed over the 5 classes,
# is the rows' 0.05.
PRESETS: dict[str, dict[str, Any]] = {
    "finn-1shot": {
        "algo": "maml",
        "arch": "conv4",
        "filters": 32,
        "n_way": 5,
        "n_shot": 1,
        "n_query": 15,
        "outer_lr": 1e-3,
        "outer_steps": 60_000,
        "meta_batch_size": 4,
        "grad_clip": 10 / 75,
    },
    "finn-5shot": {
        "algo": "maml",
        "arch": "conv4",
        "filters": 32,
        "n_way": 5,
        "n_shot": 5,
        "n_query": 15,
        "outer_lr": 1e-3,
        "outer_steps": 60_000,
        "meta_batch_size": 2,
        "grad_clip": 10 / 15,
    },
    "li-metasgd": {
        "algo": "metasgd",
        "arch": "conv4",
        "filters": 32,
        "n_way": 5,
        "n_shot": 1,
        "n_query": 15,
        "outer_lr": 1e-3,
        "outer_steps": 60_000,
        "meta_batch_size": 4,
    },
    "quick": {"outer_steps": 200, "eval_every": 100, "eval_episodes": 50, "save_every": 100},
}
