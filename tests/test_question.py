"""The question of a probe: what it says of settings, and that it tells the committed probes apart."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from nilr.config.evaluation import ProbeSettings
from nilr.report.reading import read_result
from nilr.results.question import DRAWN, MEASURED, describe_question
from nilr.results.records import DataUsed, ModelUsed
from nilr.words import slug

CPU = Path(__file__).parents[1] / "docs" / "reproduction" / "cpu"
MINI = DataUsed(name="mini", digest="m", image_size=84, split="test")
BIRDS = DataUsed(name="birds", digest="b", image_size=84, split="test")
DEFAULTS: dict[str, Any] = {
    **ProbeSettings().model_dump(mode="json"),
    "n_way": 5,
    "n_shot": 1,
    "n_query": 15,
    "batch_stats": "apart",
}


def model(algo: str = "maml", trained_on: str = "m") -> ModelUsed:
    return ModelUsed(name=algo, checkpoint="best", digest="d", outer_step=1, algo=algo, trained_on=trained_on)


def question(*models: ModelUsed, data: DataUsed = MINI, data_b: DataUsed | None = None, **changed: Any) -> str:
    config = DEFAULTS | {"inner_steps": {"maml": 10}} | changed
    return describe_question(config, models or (model(),), data, data_b)


def test_every_setting_of_a_probe_is_in_the_question_or_does_not_change_it() -> None:
    machine = {"home", "record_paths", "device", "threads", "engine", "episode_chunk", "arch", "fail_below"}
    readings = {
        "protocol",
        "controls",
        "directions",
        "harm",
        "permutations",
        "layers",
        "similarity",
        "own_head",
        "transfer",
        "geometry",
        "steps_curve",
        "shared_classes",
        "interval",
    }
    apart = {"models", "inner_steps", "data", "data_b", "max_episodes"}
    apart |= {"universality", "universality_tasks", "universality_images", "untrained_bodies"}
    assert set(ProbeSettings.model_fields) == {*MEASURED, *DRAWN, *machine, *readings, *apart}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "default"),
        ({"n_shot": 5, "neighbours": ["class-mean", "nearest"]}, "5-shot, class-mean neighbours"),
        ({"neighbours": ["nearest", "attention"], "rates": ["learned", "absolute"]}, "default"),
        ({"distance": "euclidean"}, "euclidean"),
        ({"rates": ["zero-negative", "learned"]}, "rates zero-negative"),
        ({"n_episodes": 3000, "seed": 1}, "3,000 episodes, seed 1"),
        ({"n_episodes": 900, "until_ci": 0.002}, "until ± 0.2 points"),
        ({"split": "val", "n_query": 1, "n_way": 10}, "10-way, 1 query per class, val split"),
        ({"task_b": "any", "batch_stats": "together"}, "task B any, batch statistics together"),
        ({"batch_stats": {"a": "apart", "b": "inductive"}}, "batch statistics apart and inductive"),
        ({"adapt_part": ["body"], "precision": "bf16"}, "adapting body, bf16"),
        ({"inner_steps": {"maml": 1}}, "1 inner step"),
        (
            {"layers": ["all"], "own_head": True, "threads": 7, "engine": "reference", "protocol": "same-task"},
            "default",
        ),
    ],
)
def test_the_question_is_what_differs_from_the_default(changed: dict[str, Any], words: str) -> None:
    assert question(**changed) == words


def test_another_pack_than_that_of_the_training_is_part_of_the_question() -> None:
    assert question(data=BIRDS) == "on birds"
    assert question(data_b=BIRDS) == "evaluated on birds"
    assert question(model(trained_on="b"), data=BIRDS) == "default"


def test_inner_steps_are_those_of_the_model_unless_they_were_set() -> None:
    steps = {"inner_steps": {"a": 1, "b": 1}}
    both = (model("maml"), model("metasgd"))
    assert describe_question(DEFAULTS | steps, both, MINI, None) == "1 inner step"
    assert describe_question(DEFAULTS | steps, both, MINI, None, own_steps=[1, 1]) == "default"
    assert describe_question(DEFAULTS | steps, both, MINI, None, own_steps=[3, 1]) == "1 inner step"


def test_a_question_in_a_file_name_has_only_plain_characters() -> None:
    assert slug("5-shot, 3,000 episodes") == "5-shot-3000-episodes"
    assert slug("rates -0.01") != slug("rates 0.01")
    assert slug("evaluated on Vögel/../x") == "evaluated-on-v-gel-..-x"


# the choices of the experiment with which both networks take their own number of steps, and their questions
CHOICES = {
    "euclidean distance": "euclidean, 300 episodes",
    "attention over all neighbours": "attention neighbours, 300 episodes",
    "5-shot, nearest": "5-shot, 300 episodes",
    "5-shot, class mean": "5-shot, class-mean neighbours, 300 episodes",
    "task B drawn from any classes": "task B any, 300 episodes",
    "1 query per class": "1 query per class, 300 episodes",
    "5 inner steps": "5 inner steps, 300 episodes",
}


def test_the_probes_of_one_question_average_to_the_published_difference() -> None:
    """The average over all probes of MAML's models, +0.22 points, mixes questions; by question it is as published."""
    metrics = json.loads((CPU / "reproduce.json").read_text(encoding="utf-8"))["metrics"]
    found: dict[str, list[float]] = {}
    for path in CPU.glob("cpu-maml-s?/probe-*.json"):
        result = read_result(path).result
        for probed in result.metrics.values():
            found.setdefault(result.question, []).append(probed.same_task.delta.mean)
    assert fmean(found["default"]) == pytest.approx(metrics["runs"]["maml"]["to_meta_init"]["same-task"]["mean"])
    for choice, asked in CHOICES.items():
        signs = {(sign["run"], sign["protocol"]): sign["measured"]["mean"] for sign in metrics["choices"][choice]}
        assert fmean(found[asked]) == pytest.approx(signs["maml", "same-task"]), choice
    assert {len(values) for values in found.values()} == {5}
