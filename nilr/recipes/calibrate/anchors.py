"""The table of published accuracies, 5-way, on the test split. Add a row here; `nilr calibrate --list` shows the table.

The accuracies of a row are at 1 and at 5 shots, in percent: a number, or (mean, half width of the 95 % interval). A
field that differs between them is a pair, too. Leave out what the source does not report.
"""

from collections.abc import Iterator
from typing import Any

from nilr.results.calibrate import Anchor

SHOTS = (1, 5)
RANDOM_FEATURES = "random features"  # the algorithm of an untrained body

_Percent = float | tuple[float, float] | None

# https://github.com/cbfinn/maml: as many queries as shots at test, 600 episodes, statistics of each batch
_FINN: dict[str, Any] = {
    "inner_steps": 5, "eval_inner_steps": 10, "inner_lr": "0.01, summed loss", "outer_lr": 1e-3,
    "meta_batch_size": 4, "outer_steps": 60_000, "n_query": (1, 5), "batch_stats": "apart", "n_episodes": 600,
}  # fmt: skip
_LI: dict[str, Any] = {"inner_steps": 1, "eval_inner_steps": 1, "inner_lr": "learned", "outer_steps": 60_000}
# https://github.com/learnables/learn2learn, examples/vision
_L2L: dict[str, Any] = {
    "inner_steps": 1, "eval_inner_steps": 1, "inner_lr": "0.5", "outer_lr": 3e-3, "meta_batch_size": 32,
    "outer_steps": 60_000, "n_query": (1, 5), "batch_stats": "apart", "n_episodes": 32,
}  # fmt: skip
_LIBFEWSHOT: dict[str, Any] = {"inner_steps": 5, "eval_inner_steps": 10, "inner_lr": "0.01"}
# https://github.com/HJ-Yoo/BOIL: batch normalisation without running statistics; standard deviations over models
_BOIL: dict[str, Any] = {"batch_stats": "apart", "n_episodes": 5_000, "remarks": "5 models of 1,000 episodes each"}
_NO_HEAD: dict[str, Any] = {"measured": "features", "remarks": "votes by attention over cosines"}
_WIDE, _NARROW = [64, 160, 320, 640], [64, 128, 256, 512]  # of ResNet-12
# https://github.com/Han-Jia/UNICORN-MAML: model/networks/res12_maml.py
_UNICORN: dict[str, Any] = {
    "pretrained": True, "remarks": "15 to 20 inner steps", "widths": _WIDE,
    "body_differs": "dropout and DropBlock, ReLU after the sum",
}  # fmt: skip
# https://github.com/baiksung/L2F: meta_neural_network_architectures.py, experiment_config
_L2F: dict[str, Any] = {
    "inner_steps": 5, "eval_inner_steps": 5, "inner_lr": "0.01", "outer_lr": 1e-3, "outer_steps": 50_000,
    "n_query": 15, "batch_stats": "apart", "n_episodes": 600, "widths": _NARROW,
    "body_differs": "ReLU, no pooling in block4", "remarks": "first order in the first 5,500 updates",
}  # fmt: skip
# https://github.com/Johswald/learning_where_to_learn: models.py
_SPARSE: dict[str, Any] = {"widths": _NARROW, "body_differs": "leaky ReLU of slope 0.01, no pooling in block4"}
# https://github.com/RL-VIG/LibFewShot: core/model/backbone/resnet_12.py, reproduce/BOIL
_LIBFEWSHOT_ANIL: dict[str, Any] = {"widths": _WIDE, "body_differs": "dropout and DropBlock"}
_LIBFEWSHOT_BOIL: dict[str, Any] = {"body_differs": "no shortcut in block4"}
_SEEDS: dict[str, Any] = {"remarks": "mean of 3 seeds"}


def _of_5(mean: float, deviation: float) -> tuple[float, float]:
    """Return the mean of 5 models, and the half width of its 95 % t interval from their standard deviation."""
    return mean, round(2.776 * deviation / 5**0.5, 2)


_PAPER, _CODE, _MEMORY = "paper", "repository", "memory"
_MINI, _TIERED = "mini-imagenet", "tiered-imagenet"
_FROZEN: dict[str, Any] = {"pretrained": True, "remarks": "on frozen features"}

# source, where it was read, algorithm, body, filters, dataset, accuracies at 1 and 5 shots, and all other fields
_ROWS: tuple[tuple[str, str, str, str, int | None, str, _Percent, _Percent, dict[str, Any]], ...] = (
    ("Finn et al. 2017", _PAPER, "maml", "conv4", 32, _MINI, (48.70, 1.84), (63.11, 0.92), _FINN),
    ("official code, rerun", _CODE, "maml", "conv4", 32, _MINI, (47.6, 1.9), (63.0, 0.9), _FINN),
    ("official code, rerun", _CODE, "maml", "conv4", 32, "cifar-fs", (56.8, 1.9), (70.8, 0.9), _FINN),
    ("learn2learn", _CODE, "maml", "conv4", 32, _MINI, 48.3, 65.4, _L2L),
    ("learn2learn", _CODE, "maml", "conv4", None, "cifar-fs", None, 73.6, {}),
    ("learn2learn", _CODE, "maml", "conv4", None, "fc100", None, 49.0, {}),
    ("LibFewShot", _CODE, "maml", "conv4", 32, _MINI, 47.41, 65.24, _LIBFEWSHOT),
    ("LibFewShot", _CODE, "maml", "conv4", 64, _MINI, 49.55, 64.92, _LIBFEWSHOT),
    ("LibFewShot", _CODE, "maml", "conv4", 64, _TIERED, 50.98, 67.12, _LIBFEWSHOT),
    ("BOIL", _CODE, "maml", "conv4", 64, _MINI, _of_5(48.47, 0.26), _of_5(60.36, 0.25), _BOIL),
    ("BOIL", _CODE, "maml", "conv4", 64, _TIERED, _of_5(48.80, 0.34), _of_5(64.27, 0.27), _BOIL),
    ("BOIL", _CODE, "maml", "conv4", 64, "cub", _of_5(53.70, 0.42), _of_5(65.11, 0.07), _BOIL),
    ("MeTAL", _CODE, "maml", "conv4", None, _MINI, (49.64, 0.31), (64.99, 0.27), {"remarks": "MAML++ code"}),
    ("Chen et al. 2019", _MEMORY, "maml", "conv4", 64, _MINI, (46.47, 0.82), (62.71, 0.71), {}),
    ("Antoniou et al. 2019", _MEMORY, "maml++", "conv4", 48, _MINI, (52.15, 0.26), (68.32, 0.44), {"ensemble": True}),
    ("Raghu et al. 2020", _PAPER, "maml", "conv4", 32, _MINI, 46.9, 63.1, _SEEDS),
    ("Raghu et al. 2020", _PAPER, "anil", "conv4", 32, _MINI, 46.7, 61.5, _SEEDS),
    ("Raghu et al. 2020", _PAPER, "maml", "conv4", 32, _MINI, (48.4, 0.3), (61.5, 0.8), _NO_HEAD),
    ("Raghu et al. 2020", _PAPER, RANDOM_FEATURES, "conv4", 32, _MINI, (32.9, 0.6), (43.2, 0.5), _NO_HEAD),
    ("Li et al. 2017", _PAPER, "metasgd", "conv4", 32, _MINI, (50.47, 1.87), (64.03, 0.94), _LI),
    ("jik0730, rerun", _CODE, "metasgd", "conv4", 64, _MINI, 49.1, 66.0, {"remarks": "rates start at 0.001"}),
    ("Rusu et al. 2019", _MEMORY, "metasgd", "wrn-28-10", None, _MINI, (54.24, 0.03), (70.86, 0.04), _FROZEN),
    ("sparse-MAML", _PAPER, "sparse-maml, binary", "conv4", 64, _MINI, 50.35, 67.03, {}),
    ("sparse-MAML", _PAPER, "sparse-maml", "conv4", 64, _MINI, 50.15, 66.80, {}),
    ("L2F", _CODE, "maml", "resnet12", None, _MINI, (51.03, 0.50), 68.26, _L2F | {"meta_batch_size": 1}),
    ("L2F", _CODE, "maml", "resnet12", None, _MINI, (58.37, 0.49), 69.76, _L2F | {"meta_batch_size": 2}),
    ("MeTAL", _CODE, "maml", "resnet12", None, _MINI, (58.60, 0.42), (69.54, 0.38), {}),
    ("sparse-MAML", _CODE, "maml", "resnet12", None, _MINI, 53.91, 69.36, _SPARSE),
    ("sparse-MAML", _CODE, "sparse-maml", "resnet12", None, _MINI, 56.39, 73.01, _SPARSE),
    ("LibFewShot", _CODE, "anil", "resnet12", None, _MINI, 52.77, 68.11, _LIBFEWSHOT_ANIL),
    ("LibFewShot", _CODE, "boil", "resnet12", None, _MINI, (58.87, 0.38), 72.88, _LIBFEWSHOT_BOIL),
    ("UNICORN-MAML", _CODE, "maml", "resnet12", None, _MINI, 64.42, 83.44, _UNICORN),
    ("UNICORN-MAML", _CODE, "maml", "resnet12", None, _TIERED, 65.72, 84.37, _UNICORN),
)  # fmt: skip


def _anchors() -> Iterator[Anchor]:
    for source, reported_by, algorithm, body, filters, dataset, one, five, rest in _ROWS:
        for i, found in enumerate((one, five)):
            if found is None:
                continue
            mean, half = found if isinstance(found, tuple) else (found, None)
            yield Anchor.model_validate(
                {
                    "source": source,
                    "reported_by": reported_by,
                    "algorithm": algorithm,
                    "body": body,
                    "filters": filters,
                    "dataset": dataset,
                    "image_size": 32 if dataset in ("cifar-fs", "fc100") else 84,
                    "n_shot": SHOTS[i],
                    "accuracy": round(mean / 100, 6),
                    "ci95": None if half is None else round(half / 100, 6),
                    **{name: value[i] if isinstance(value, tuple) else value for name, value in rest.items()},
                }
            )


ANCHORS = tuple(_anchors())
