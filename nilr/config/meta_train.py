"""Settings of `nilr meta-train`, and its presets."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nilr.config.base import (
    ChunkSettings,
    ClusterSettings,
    CommaTexts,
    EpisodeSettings,
    Float32,
    OnNan,
    OuterLRSchedule,
    RateGrain,
    Recompute,
    Seeds,
    TrainingBatchStats,
    listed_seeds,
    setting,
)
from nilr.words import one_of

# The names in nilr/loggers.py, which a test compares.
LOGGERS = ("tensorboard", "wandb", "mlflow")

# Settings that name a model whose rates the training uses.
REFERENCES = ("inner_lr_from", "rate_norm_from")


class TrainSettings(EpisodeSettings, ChunkSettings, ClusterSettings):
    """`nilr meta-train`: learn a meta-initialisation, and inner rates, from a pack."""

    data: str | None = setting(None, "Pack to train on: a name or a path.", shown="the pack that was made last")
    algo: str = setting("maml", "Algorithm: {algorithms}.", offers=("{algorithms}",))
    preset: str | None = setting(
        None, "A set of settings, which other flags override: {presets}.", shown="none", offers=("{presets}",)
    )
    name: str | None = setting(
        None, "Name of the model in the store.", shown="a new name that starts with --algo", env=False
    )
    seeds: Seeds = setting(
        1,
        "Seeds to train at the same time: a number of seeds, starting at --seed, or a list such as 0,1,7. The models "
        "are NAME-seed0, NAME-seed1...",
        text=True,
    )
    inner_lr: Float32 | None = setting(
        None,
        "Fixed learning rate of the inner loop: any number, also zero or a negative one. The loss is a mean over "
        "images. `probe --rates NUMBER` adapts a trained model with another rate.",
        shown="the algorithm's default",
    )
    inner_lr_from: str | None = setting(
        None,
        "Fixed learning rates of the inner loop from this model: for each tensor the mean of the model's rates. A "
        "name, NAME@best, NAME@last or a path.",
        shown="--inner-lr",
    )
    inner_lr_init: str | None = setting(
        None,
        "Initial value of learned rates: a number, uniform:LOW,HIGH (one random value for all rates), "
        "uniform-each:LOW,HIGH (a random value for each rate) or random-sign:SIZE (SIZE or -SIZE for each rate, with "
        "equal probability).",
        shown="the algorithm's default",
    )
    rate_grain: RateGrain | None = setting(
        None,
        "Grain of learned rates: element: one rate per element of a parameter; tensor: one rate per parameter tensor; "
        "scalar: one rate for all.",
        shown="the algorithm's default",
    )
    rate_per_step: bool | None = setting(
        None,
        "Learn separate rates for each inner step. Later steps than --inner-steps use the rates of the last one.",
        shown="the algorithm's default",
    )
    rate_constraint: str | None = setting(
        None,
        "Clip learned rates after every update: free (no clipping), non-negative, fixed-signs (at zero, on the side "
        "where each rate started) or bounded:LOW,HIGH.",
        shown="the algorithm's default",
        offers=("free", "non-negative", "fixed-signs", "bounded:"),
    )
    rate_norm_from: str | None = setting(
        None,
        "Scale the learned rates of each tensor, at the start and after every update, to the Euclidean norm of this "
        "model's rates of that tensor. A name, NAME@best, NAME@last or a path.",
        shown="no scaling",
    )
    norm_adapted: bool | None = setting(
        None, "Adapt the scale and shift of normalisation layers in the inner loop.", shown="the algorithm's default"
    )
    batch_stats: TrainingBatchStats = setting(
        "apart",
        "Statistics of batch normalisation for query images: apart: their own; inductive: those of the support under "
        "the adapted weights. Also the model's default in evaluation.",
    )
    outer_lr: float = setting(1e-3, "Learning rate of the outer loop (Adam).", gt=0, le=1000, allow_inf_nan=False)
    outer_lr_schedule: OuterLRSchedule = setting(
        "constant", "Schedule of the outer learning rate: constant, or cosine: it falls to 0 over all updates."
    )
    outer_steps: int = setting(60_000, "Number of updates in total.", ge=1)
    grad_clip: Float32 | None = setting(
        None,
        "Clip each element of the meta-gradient to this absolute value. The loss is a mean over episodes and queries.",
        shown="no clipping",
        gt=0,
    )
    multi_step_loss: bool = setting(
        False,
        "Sum the query losses after all inner steps. The weights of all steps except the last fall to 0 over the first "
        "15 % of the updates.",
    )
    on_nan: OnNan = setting(
        "stop",
        "What to do if a query loss or a meta-gradient is not finite: stop: save the last finite state and exit; skip: "
        "skip the update, at most 10 times in a row.",
    )
    recompute: Recompute = setting(
        "auto",
        "on: keep only the parameters of each inner step, and compute its activations again for the meta-gradient. "
        "Memory then does not grow with --inner-steps, an update takes longer, and results are the same. auto: on if "
        "the activations of a second-order algorithm would not fit into half of the available memory.",
    )
    eval_every: int = setting(
        1_000, "Number of updates between validations; the last update is validated too. 0: no validation.", ge=0
    )
    eval_episodes: int = setting(200, "Number of episodes per validation.", ge=2)
    save_every: int | None = setting(
        None, "Number of updates between saves.", shown="500 updates or 5 minutes, whichever comes first", ge=1
    )
    log_every: int = setting(10, "Number of updates between lines of history.jsonl.", ge=1)
    log: CommaTexts = setting(
        (),
        f"Also log the figures of history.jsonl, at each save: {one_of(LOGGERS)}. Each requires the extra of its name. "
        "Commas separate several.",
        shown="none",
        offers=LOGGERS,
    )
    log_dir: Path | None = setting(
        None,
        "Directory for the files of --log. MLFLOW_TRACKING_URI and WANDB_DIR override it.",
        shown="STORE/logs",
    )
    resume: str = setting(
        "never",
        "Training to resume: never, a model (name or path), or auto: the model --name if it exists.",
        env=False,
        offers=("auto", "never"),
    )
    force: bool = setting(False, "Replace a model with the same name.", env=False)

    @property
    def reference(self) -> str | None:
        """The model whose rates the training uses, if any."""
        return self.inner_lr_from or self.rate_norm_from

    @property
    def each_seed(self) -> tuple[int, ...]:
        """The seeds of the models to train."""
        return listed_seeds(self.seeds, self.seed)

    def validations_after(self, outer_step: int) -> int:
        """Return how many validations follow the one after `outer_step` updates; -1 before the first one."""
        if not self.eval_every or outer_step >= self.outer_steps:
            return 0
        return math.ceil(self.outer_steps / self.eval_every) - max(0, outer_step) // self.eval_every

    @classmethod
    def from_stored(cls, values: Mapping[str, Any]) -> "TrainSettings":
        """Return stored settings without names that are unknown to this version; ValidationError if one is invalid."""
        return cls.model_validate({name: value for name, value in values.items() if name in cls.model_fields})


_FINN: dict[str, Any] = {
    "algo": "maml",
    "arch": "conv4",
    "filters": 32,
    "n_way": 5,
    "n_shot": 1,
    "n_query": 15,
    "outer_lr": 1e-3,
    "outer_steps": 60_000,
    "meta_batch_size": 4,
}

# The ResNet-12 of MAML in the code of L2F (Baik, Hong, Lee: Learning to Forget for Meta-Learning, 2020), trained from
# random weights: https://github.com/baiksung/L2F, experiment_config/mini-imagenet_maml_*_resnet12.json. It clips at 10
# a meta-gradient that is summed over episodes; ours is a mean. docs/bodies.md lists what differs.
_RESNET12: dict[str, Any] = {
    "algo": "maml",
    "arch": "resnet12",
    "widths": (64, 128, 256, 512),
    "n_way": 5,
    "n_query": 15,
    "inner_lr": 0.01,
    "inner_steps": 5,
    "eval_inner_steps": 5,
    "outer_lr": 1e-3,
    "outer_steps": 50_000,
}

# Chen et al., A Closer Look at Few-shot Classification, 2019: https://github.com/wyharveychen/CloserLookFewShot,
# methods/maml.py and train.py. All parameters adapt.
_CHEN: dict[str, Any] = _FINN | {
    "filters": 64,
    "n_query": 16,
    "inner_lr": 0.01,
    "inner_steps": 5,
    "eval_inner_steps": 5,
    "norm_adapted": True,
}

# Finn et al. clip at 10 a meta-gradient of query losses that are summed over 75 images and divided by the shots. Our
# losses are means over images, so their bound is 10/75 at 1-shot and 10/15 at 5-shot. Their inner rate, 0.01 on a loss
# that is summed over the 5 classes, is our 0.05, the default of the algorithms.
PRESETS: dict[str, dict[str, Any]] = {
    "finn-1shot": _FINN | {"grad_clip": 10 / 75},
    "finn-5shot": _FINN | {"n_shot": 5, "meta_batch_size": 2, "grad_clip": 10 / 15},
    "li-metasgd": _FINN | {"algo": "metasgd"},
    "conv4-64-1shot": _CHEN,
    "resnet12-1shot": _RESNET12 | {"n_shot": 1, "meta_batch_size": 2, "grad_clip": 10 / 2},
    "resnet12-5shot": _RESNET12 | {"n_shot": 5, "meta_batch_size": 1, "grad_clip": 10.0},
    "quick": {"outer_steps": 200, "eval_every": 100, "eval_episodes": 50, "save_every": 100},
}
