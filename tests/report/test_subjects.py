from typing import Any

import pytest

from nilr.errors import ResultError
from nilr.report.subjects import Measure, groups, measure, probed
from tests.report.material import cells, full_probe, material, result, used


def labels(found: Any) -> list[list[str]]:
    return [[subject.label for subject in group] for group in groups(found.subjects)]


def one(name: str, seed: int | None, recipe: str | None, **change: Any) -> dict[str, Any]:
    return result(
        "probe", {name: cells(0.4, 0.01, 0.02)}, [used(name, "maml", seed or 0, recipe) | {"seed": seed}], **change
    )


def test_models_of_one_recipe_are_seeds_whatever_file_they_stand_in() -> None:
    assert labels(material(full_probe(seeds=2), one("maml-s7", 7, full_probe()["models"][0]["recipe"]))) == [
        ["maml-s0", "maml-s1", "maml-s7"],
        ["metasgd-s0", "metasgd-s1"],
    ]


def test_a_seed_that_was_probed_twice_counts_once() -> None:
    assert labels(material(one("a", 0, "r"), one("b", 0, "r"), one("c", 1, "r"))) == [["a", "c"]]


def test_models_without_a_recipe_are_never_put_together() -> None:
    assert labels(material(one("a", 0, None), one("b", 1, None))) == [["a"], ["b"]]


def test_models_judged_in_different_ways_are_never_put_together() -> None:
    config = result("probe", {}, [])["config"] | {"distance": "euclidean"}
    other = {"name": "birds", "digest": "birds", "image_size": 84, "split": "test"}
    found = material(one("a", 0, "r"), one("b", 1, "r", config=config), one("c", 2, "r", data=other))
    assert labels(found) == [["a"], ["b"], ["c"]]


def test_a_control_is_no_model() -> None:
    content = one("a", 0, "r")
    content["metrics"]["raw pixels"] = {"meta-init": cells(0.3, 0, 0)["meta-init"]}
    assert labels(material(content)) == [["a"]]
    assert [subject.label for subject in material(content).subjects] == ["a", "raw pixels"]


def test_a_name_that_stands_in_two_files_is_told_apart_by_them() -> None:
    assert [s.label for s in material(one("a", 0, "r"), one("a", 1, "r")).subjects] == ["a (0.json)", "a (1.json)"]


def test_bounds_are_taken_as_given_else_symmetric() -> None:
    assert measure({"mean": 0.5, "ci95": 0.125}) == Measure(0.5, 0.375, 0.625)
    assert measure({"mean": 0.5, "ci95": 0.125, "low": 0.4, "high": 0.65}) == Measure(0.5, 0.4, 0.65)
    assert measure({"mean": 0.5, "ci95": None}) == Measure(0.5, None, None)
    assert measure({"mean": 0.5, "ci95": None, "p": 0.01, "p_holm": 0.04}).p == 0.04
    assert measure({"mean": 0.5, "ci95": None, "p": 0.01}).p == 0.01


@pytest.mark.parametrize(
    ("given", "sign"),
    [
        (Measure(1, 0.5, 2), 1),
        (Measure(-1, -2, -0.5, p=0.01), -1),
        (Measure(1, 0.5, 2, p=0.2), 0),
        (Measure(1, -1, 3), 0),
        (Measure(1, None, None), 0),
    ],
)
def test_a_difference_is_found_on_the_side_of_its_interval_unless_many_comparisons_take_it_away(
    given: Measure, sign: int
) -> None:
    assert given.found == sign


def test_a_surprise_names_the_file() -> None:
    content = one("a", 0, "r")
    content["metrics"]["a"]["edits"] = {"negated": {"same-task": {"accuracy": {"mean": None}}}}
    with pytest.raises(ResultError, match=r"`0\.json` does not read as nilr/probe/1"):
        probed(material(content).sources)
