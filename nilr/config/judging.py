"""Settings of the commands that adapt a model and judge it."""

from __future__ import annotations

from pathlib import Path

from nilr.config.base import (
    BatchStats,
    ChunkSettings,
    DeviceSettings,
    Distance,
    Interval,
    ProtocolChoice,
    Split,
    TaskB,
    setting,
)

# The table of edits, nilr/probes/edits.py, without importing torch; a test compares them.
RATES = (
    "learned, zero-negative, zero-positive, absolute, negated, shuffled-signs, shuffled, tensor-mean, norm-matched or "
    "a number"
)
# The table of rules, nilr/probes/neighbours.py, likewise.
NEIGHBOURS = "nearest, class-mean or attention"


class TaskSettings(DeviceSettings):
    """What `adapt`, `probe` and `rates` share: which episodes, and in how many steps the inner loop adapts to them."""

    data: str | None = setting(None, "Pack to judge on: a name or a path.", shown="the one trained on")
    split: Split = setting("test", "Split whose classes the episodes draw.")
    n_way: int | None = setting(None, "Classes per episode.", shown="as trained", ge=2, le=1000)
    n_shot: int | None = setting(None, "Support images per class.", shown="as trained", ge=1, le=1000)
    inner_steps: int | None = setting(
        None, "Gradient steps of the inner loop.", shown="the model's eval_inner_steps", ge=0, le=1000
    )


class JudgeSettings(TaskSettings):
    """What `adapt` and `probe` share: how features are judged, and with which rates they are adapted."""

    n_query: int | None = setting(None, "Query images per class.", shown="as trained", ge=1, le=1000)
    batch_stats: BatchStats = setting(
        "apart", "Batch statistics of support and query in judging: a batch each, or one together."
    )
    adapt_part: tuple[str, ...] = setting(
        ("all",),
        "Of what the inner loop moves, move this alone: all, body, head, or layers (repeat, or commas).",
        shown="all",
    )
    rates: tuple[str, ...] = setting(
        ("learned",),
        f"The inner rates to adapt with; `probe` takes several (repeat, or commas) on the same episodes: {RATES}.",
        shown="learned",
    )


class AdaptSettings(JudgeSettings):
    """`nilr adapt`: one episode, or a user's own labelled images."""

    model: str | None = setting(None, "Model: a name, NAME@best, NAME@last or a path.", shown="the one trained last")
    episode: int = setting(0, "Number of the seeded episode.", ge=0)
    support: Path | None = setting(None, "A folder per class with labelled images to adapt on.", shown="an episode")
    query: Path | None = setting(
        None, "Images to classify after --support: a folder per class, or just images.", shown="none"
    )
    name: str | None = setting(
        None, "Name of the adapted model in the registry.", shown="a fresh one from the model's", env=False
    )
    force: bool = setting(False, "Replace a model that has the same name.", env=False)


class ProbeSettings(JudgeSettings, ChunkSettings):
    """`nilr probe`: nearest neighbours in feature space, before and after adaptation."""

    models: tuple[str, ...] = setting((), "Models: names, NAME@best, NAME@last or paths; default: the last trained.")
    protocol: ProtocolChoice = setting("all", "Which features to judge.")
    n_episodes: int = setting(600, "Episodes to judge; every model and protocol sees the same ones.", ge=1)
    until_ci: float | None = setting(
        None,
        "Go on after --n-episodes (and at least 50) until the half width of every difference's interval is at most "
        "this, as a fraction: 0.002 is 0.2 points.",
        shown="judge --n-episodes and no more",
        gt=0,
        lt=1,
    )
    max_episodes: int = setting(20_000, "With --until-ci: where to stop all the same.", ge=50)
    interval: Interval = setting(
        "t", "95 % interval of the differences: Student's t, or a bootstrap (BCa, 9,999 resamples)."
    )
    neighbours: tuple[str, ...] = setting(
        ("nearest",),
        f"How labelled neighbours vote: {NEIGHBOURS}; several (repeat, or commas) judge the same features, and the "
        "first is the main one.",
        shown="nearest",
    )
    distance: Distance = setting("cosine", "How near is measured.")
    controls: bool = setting(False, "Judge raw pixels and an untrained body as well, on the same episodes.")
    task_b: TaskB = setting(
        "disjoint",
        "cross-task: whether the judged task has none of the classes that are adapted to, is drawn freely, or has the "
        "same classes and labels with other images.",
    )
    data_b: str | None = setting(
        None, "Judge on this other pack, and adapt to --data in cross-task: a name or a path.", shown="--data for both"
    )
    layers: tuple[str, ...] = setting(
        (), "Judge the flattened output of these layers too: all, or their names (repeat, or commas).", shown="none"
    )
    similarity: bool = setting(
        False, "Compare what the layers make of the query images before and after: CKA, SVCCA, cosines."
    )
    own_head: bool = setting(
        False, "Judge the model's own head too, on the judged task, before and after adaptation, with each of --rates."
    )
    steps_curve: bool = setting(False, "Judge after every inner step, from 0 to all.")
    shared_classes: bool = setting(
        False, "Judge cross-task when adapted to 0, 1, ... all of the judged classes, in new images."
    )


class RatesSettings(TaskSettings, ChunkSettings):
    """`nilr rates`: how the inner rates are distributed, and what they make of real gradients."""

    models: tuple[str, ...] = setting((), "Models: names, NAME@best, NAME@last or paths; default: the last trained.")
    n_episodes: int = setting(
        100, "Episodes whose support gradients the rates are held against; 0: look at the rates alone.", ge=0
    )
