"""The question that a probe answers: in a few words, what differs from the default."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nilr.config.evaluation import ProbeSettings
from nilr.config.meta_train import TrainSettings
from nilr.meta.algorithms import ALGORITHMS
from nilr.results.records import DataUsed, ModelUsed
from nilr.words import counted, number

DEFAULT = "default"

Words = Mapping[str, Callable[[Any], str]]
# The words of settings that change what is measured, and of those that only draw other episodes. Of a list, the first
# value is the main one. Inner steps and packs, whose default depends on the model, are described apart.
MEASURED: Words = {
    "n_way": "{}-way".format,
    "n_shot": "{}-shot".format,
    "n_query": lambda n: f"{counted(n, 'query', 'queries')} per class",
    "neighbours": "{} neighbours".format,
    "distance": "{}".format,
    "task_b": "task B {}".format,
    "batch_stats": "batch statistics {}".format,
    "query_batch": "queries by {}".format,
    "head": "head {}".format,
    "rates": "rates {}".format,
    "adapt_part": "adapting {}".format,
    "split": "{} split".format,
    "precision": "{}".format,
}
DRAWN: Words = {
    "n_episodes": lambda n: counted(n, "episode"),
    "until_ci": lambda width: f"until ± {number(100 * width)} points",
    "seed": "seed {}".format,
}
# by default as the model was trained; compared with the default of `nilr meta-train`
_AS_TRAINED = ("n_way", "n_shot", "n_query", "batch_stats")


def describe_question(
    config: Mapping[str, Any],
    models: Sequence[ModelUsed],
    data: DataUsed | None,
    data_b: DataUsed | None,
    *,
    own_steps: Sequence[int] | None = None,
) -> str:
    """Return in words what a probe's settings change, or "default".

    Args:
        config: the resolved settings, as the result stores them; missing ones are the default.
        models: the probed models.
        data: the pack.
        data_b: the evaluated pack, if it is another one.
        own_steps: each model's own inner steps in evaluation; None: those of its algorithm, for old results.
    """
    words = [*_changed(config, MEASURED), *_changed_steps(config.get("inner_steps"), models, own_steps)]
    if data is not None and any(model.trained_on != data.digest for model in models):
        words.append(f"on {data.name}")
    if data_b is not None:
        words.append(f"evaluated on {data_b.name}")
    until = config.get("until_ci") is not None
    words += _changed(config, {name: word for name, word in DRAWN.items() if not (until and name == "n_episodes")})
    return ", ".join(words) or DEFAULT


def _changed(config: Mapping[str, Any], words: Words) -> list[str]:
    found = []
    for name, describe in words.items():
        fields = (TrainSettings if name in _AS_TRAINED else ProbeSettings).model_fields
        value = _main(name, config.get(name))
        if value is not None and value != _main(name, fields[name].default):
            found.append(describe(value))
    return found


def _main(name: str, value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping):  # by model
        return " and ".join(dict.fromkeys(map(str, value.values())))
    if not isinstance(value, list | tuple):
        return value
    return " and ".join(map(str, value)) if name == "adapt_part" else value[0] if value else None


def _changed_steps(steps: object, models: Sequence[ModelUsed], own: Sequence[int] | None) -> list[str]:
    """Return the numbers of inner steps that are not the model's own; `steps` has them by model, in order."""
    of_algorithm = [row.eval_inner_steps if (row := ALGORITHMS.get(model.algo)) else None for model in models]
    used = list(steps.values()) if isinstance(steps, Mapping) else []
    changed = [n for n, known in zip(used, own or of_algorithm, strict=False) if known not in (None, n)]
    return [counted(n, "inner step") for n in dict.fromkeys(changed)]
