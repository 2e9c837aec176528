"""Settings of the commands that adapt and evaluate models: `nilr probe`, `nilr adapt` and `nilr rates`."""

from pathlib import Path

from nilr.config.base import (
    ADAPTED,
    BatchStats,
    ChunkSettings,
    CodeSettings,
    CommaTexts,
    Distance,
    HeadChoice,
    Interval,
    ProtocolChoice,
    QueryBatch,
    Split,
    TaskB,
    setting,
)
from nilr.words import one_of

# The names in nilr/probes/edits.py, which imports torch; a test compares them.
RATES = (
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
# The names in nilr/probes/neighbours.py; a test compares them.
NEIGHBOURS = ("nearest", "class-mean", "attention")
BLOCKS = ("block1", "block2", "block3", "block4")  # the layers of most bodies
# What --fail-below limits.
FIGURES = ("meta-init.accuracy", *(f"{protocol}.{figure}" for protocol in ADAPTED for figure in ("accuracy", "delta")))


class TaskSettings(CodeSettings):
    """Settings that `adapt`, `probe` and `rates` share: the episodes and the inner steps."""

    data: str | None = setting(
        None, "Pack to evaluate on: a name or a path.", shown="the pack that the model was trained on"
    )
    split: Split = setting("test", "Split from which episodes are drawn.")
    n_way: int | None = setting(None, "Number of classes per episode.", shown="as trained", ge=2, le=1000)
    n_shot: int | None = setting(None, "Number of support images per class.", shown="as trained", ge=1, le=1000)
    inner_steps: int | None = setting(
        None, "Number of gradient steps of the inner loop.", shown="--eval-inner-steps of the training", ge=0, le=1000
    )


class JudgeSettings(TaskSettings):
    """Settings that `adapt` and `probe` share: how models are adapted and evaluated."""

    n_query: int | None = setting(None, "Number of query images per class.", shown="as trained", ge=1, le=1000)
    batch_stats: BatchStats | None = setting(
        None,
        "Statistics of batch normalisation: apart (usual in the field): support and query images are a batch each; "
        "together: they are one batch; inductive: the queries use the support's, so that no prediction depends on "
        "other query images.",
        shown="as trained, which is apart without meta-train --batch-stats; inductive for images of --support",
    )
    head: HeadChoice = setting(
        "rows",
        "Head to start from: rows: the model's, its rows in turn for another number of classes; mean: copies of their "
        "mean; zeros. From equal rows (mean, zeros) the first inner step moves the head alone.",
    )
    adapt_part: CommaTexts = setting(
        ("all",),
        "Parts of the network to adapt, if the algorithm adapts them: all, body, head, or names of layers (repeat "
        "the flag or use commas).",
        shown="all",
        offers=("all", "body", "head", *BLOCKS),
        min_length=1,
    )
    rates: CommaTexts = setting(
        ("learned",),
        f"Inner rates to adapt with: {', '.join(RATES)} or a number of any sign for all rates. `probe` accepts several "
        "(repeat the flag or use commas).",
        shown="learned",
        offers=RATES,
        min_length=1,
    )


class AdaptSettings(JudgeSettings):
    """`nilr adapt`: adapt a model to one episode, or to labelled images."""

    model: str | None = setting(
        None, "Model: a name, NAME@best, NAME@last or a path.", shown="the latest trained model"
    )
    episode: int = setting(0, "Index of the episode; --seed fixes the sequence of episodes.", ge=0, lt=2**63)
    support: Path | None = setting(
        None, "Folder with one subfolder of images per class, to adapt to.", shown="an episode of --data"
    )
    query: tuple[Path, ...] = setting(
        (),
        "Images to classify: image files, a folder of images, or one with a subfolder per class. Without --support, an "
        "adapted MODEL classifies them without further steps.",
    )
    predictions: Path | None = setting(
        None,
        "CSV file to write: the class of each query image, and the probability of each class.",
        shown="none",
    )
    skip_broken: bool = setting(False, "Skip images of --support and --query that cannot be read.")
    save: bool = setting(True, "Store the adapted model; with --no-save, only the result.", shown="store it")
    name: str | None = setting(None, "Name of the adapted model in the store.", shown="MODEL-adapted", env=False)
    force: bool = setting(False, "Replace a model with the same name.", env=False)


class ProbeSettings(JudgeSettings, ChunkSettings):
    """`nilr probe`: measure how well neighbours in feature space classify, before and after adaptation."""

    models: tuple[str, ...] = setting(
        (), "Models: names, NAME@best, NAME@last or paths; default: the latest trained model."
    )
    protocol: ProtocolChoice = setting(
        "all",
        "Features to evaluate: before adaptation (meta-init), after adaptation to the same episode (same-task) or to "
        "another one (cross-task), or all.",
    )
    n_episodes: int = setting(600, "Number of episodes, the same ones for every model and protocol.", ge=1)
    until_ci: float | None = setting(
        None,
        "After --n-episodes (at least 50), evaluate more episodes until the 95 % interval of every difference has "
        "at most this half width, as a fraction: 0.002 is 0.2 percentage points.",
        shown="evaluate exactly --n-episodes",
        gt=0,
        lt=1,
    )
    max_episodes: int = setting(20_000, "Maximum number of episodes with --until-ci.", ge=50)
    interval: Interval = setting(
        "t", "Method for 95 % intervals of differences: Student's t, or bootstrap (BCa, 9,999 resamples)."
    )
    neighbours: CommaTexts = setting(
        ("nearest",),
        f"How neighbours classify a query: {one_of(NEIGHBOURS)}. If there are several (repeat the flag or use "
        "commas), the first one is the main one.",
        shown="nearest",
        offers=NEIGHBOURS,
        min_length=1,
    )
    distance: Distance = setting("cosine", "Distance between features.")
    controls: bool = setting(False, "Evaluate raw pixels and untrained bodies too, on the same episodes.")
    untrained_bodies: int = setting(
        5,
        "Number of untrained bodies of --controls, whose mean is reported. Each costs as much as meta-init of a model.",
        ge=1,
        le=1000,
    )
    task_b: TaskB = setting(
        "disjoint",
        "Classes of the evaluated episode in cross-task, compared with the episode that the model is adapted to: "
        "disjoint: other classes; any: independent; same-classes: the same classes and labels with other images.",
    )
    data_b: str | None = setting(
        None,
        "Pack of the evaluated episodes, a name or a path; in cross-task, models are still adapted to --data.",
        shown="--data",
    )
    query_batch: QueryBatch = setting(
        "all",
        "Query images that are evaluated in one batch, which matters for --batch-stats apart and together: all of an "
        "episode, those of one class, or a single image.",
    )
    layers: CommaTexts = setting(
        (),
        "Evaluate the outputs of these layers too: all, or names (repeat the flag or use commas).",
        shown="none",
        offers=("all", *BLOCKS),
    )
    similarity: bool = setting(
        False, "Compare the outputs of each layer for the query images before and after adaptation: CKA, SVCCA, cosine."
    )
    geometry: bool = setting(
        False,
        "Measure how far apart and how compact the classes of the query images are in feature space, before and after "
        "adaptation: class-distance normalised variance, also along the line between two classes, and hyperplane "
        "variation.",
    )
    transfer: bool = setting(
        False,
        "Predict the change of the evaluated episode's loss by adaptation to first order, by sign of the rates and by "
        "layer, and measure the real change.",
    )
    own_head: bool = setting(
        False, "Evaluate the model's own head too, before and after adaptation, with each of --rates."
    )
    directions: bool = setting(
        False,
        "Compare the displacement of adaptation with its negative, its double and random ones of the same size, of the "
        "body and each of its layers (those of --layers, by default all), and split the effect into its odd and even "
        "part.",
    )
    permutations: int | None = setting(
        None,
        "Adapt with this number of permutations of the labels, at most all of them, and report the spread of accuracy, "
        "of neighbours and of the model's own head.",
        shown="none",
        ge=2,
        le=1000,
    )
    harm: bool = setting(
        False,
        "Count the episodes whose accuracy adaptation lowers, and compare their share with that expected by chance.",
    )
    steps_curve: bool = setting(False, "Evaluate after every inner step, from 0 on.")
    shared_classes: bool = setting(
        False, "Evaluate cross-task with 0, 1, ... all classes shared between the two episodes, with different images."
    )
    universality: Split | None = setting(
        None,
        "Split whose classes linear classifiers (ridge and logistic regression) distinguish, all at once, by the "
        "features before and after adaptation to a task of --split. The classes are those of --data-b if it is set.",
        shown="none",
    )
    universality_tasks: int = setting(20, "Number of tasks to adapt to with --universality.", ge=1)
    universality_images: int = setting(
        50, "Number of images per class that --universality fits, and of others that it evaluates.", ge=5
    )
    fail_below: CommaTexts = setting(
        (),
        "Exit with status 1 if a model's figure is below this fraction: PROTOCOL.accuracy=SHARE, or, for the "
        "difference to meta-init, PROTOCOL.delta=SHARE. Example: same-task.accuracy=0.45 (repeat the flag or use "
        "commas).",
        shown="no limit",
        offers=(f"{figure}=" for figure in FIGURES),
    )


class RatesSettings(TaskSettings, ChunkSettings):
    """`nilr rates`: describe the inner rates and their effect on real gradients."""

    models: tuple[str, ...] = setting(
        (), "Models: names, NAME@best, NAME@last or paths; default: the latest trained model."
    )
    n_episodes: int = setting(
        100, "Number of episodes whose support gradients are compared with the rates; 0: describe only the rates.", ge=0
    )
    consistency: bool = setting(
        False, "Compare the rates with what the gradients of different episodes have in common, element by element."
    )
    effective_step: bool = setting(
        False, "Compare the curvature of the support loss along the first inner step with its slope."
    )


class CalibrateSettings(CodeSettings, ChunkSettings):
    """`nilr calibrate`: evaluate models as published accuracies were, and compare them."""

    models: tuple[str, ...] = setting(
        (), "Models: names, NAME@best, NAME@last or paths; default: the latest trained model."
    )
    data: str | None = setting(
        None, "Pack to evaluate on: a name or a path.", shown="the pack that the model was trained on"
    )
    n_episodes: int = setting(600, "Number of episodes of each evaluation.", ge=2)
    list: bool = setting(False, "Show the table of published accuracies instead.")
