from typing import Any

from nilr.report.figures.figure import Material
from nilr.report.subjects import by_protocol, by_question, groups, probed
from tests.report.material import cells, full_probe, material, result, source, used


def labels(found: Material) -> list[list[str]]:
    return [[subject.label for subject, _ in group] for group in groups(found.subjects)]


def one(name: str, seed: int | None, recipe: str | None, **change: Any) -> dict[str, Any]:
    return result(
        "probe", {name: cells(0.4, 0.01, 0.02)}, [used(name, "maml", seed or 0, recipe) | {"seed": seed}], **change
    )


def test_models_with_one_recipe_are_seeds_of_one_group_across_files() -> None:
    assert labels(material(full_probe(seeds=2), one("maml-s7", 7, full_probe()["models"][0]["recipe"]))) == [
        ["maml-s0", "maml-s1", "maml-s7"],
        ["metasgd-s0", "metasgd-s1"],
    ]


def test_a_seed_in_two_results_counts_once() -> None:
    assert labels(material(one("a", 0, "r"), one("b", 0, "r"), one("c", 1, "r"))) == [["a", "c"]]


def test_models_without_a_recipe_or_a_seed_are_never_grouped() -> None:
    assert labels(material(one("a", 0, None), one("b", 1, None))) == [["a"], ["b"]]
    assert labels(material(one("a", None, "r"), one("b", 1, "r"))) == [["a"], ["b"]]


def test_models_probed_in_different_ways_are_never_grouped() -> None:
    base = result("probe", {}, [])["config"]
    other = {"name": "birds", "digest": "birds", "image_size": 84, "split": "test"}
    found = material(
        one("a", 0, "r"),
        one("b", 1, "r", config=base | {"distance": "euclidean"}),
        one("c", 2, "r", config=base | {"rates": ["absolute", "learned"]}),
        one("d", 3, "r", data=other),
        one("e", 4, "r", config=base | {"n_episodes": 7}),
        one("f", 5, "r", data=other | {"name": "mini-imagenet", "digest": "other"}),
    )
    assert labels(found) == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]
    assert list(by_question(found.sources)) == [
        "default, on mini-imagenet (mini)",
        "euclidean, on mini-imagenet (mini)",
        "rates absolute, on mini-imagenet (mini)",
        "on birds",
        "7 episodes, on mini-imagenet (mini)",
        "on mini-imagenet (other)",
    ]


def test_a_model_that_was_probed_with_several_questions_keeps_its_name_in_each() -> None:
    base = result("probe", {}, [])["config"]
    found = material(one("a", 0, "r"), one("a", 0, "r", config=base | {"n_shot": 5}))
    assert [(s.question, s.label) for s in found.subjects] == [("default", "a"), ("5-shot", "a")]


def test_a_control_is_shown_but_has_no_group() -> None:
    content = one("a", 0, "r")
    content["metrics"]["raw pixels"] = {"meta-init": cells(0.3, 0, 0)["meta-init"]}
    assert labels(material(content)) == [["a"]]
    subjects = material(content).subjects
    assert [(s.label, s.model and s.model.name, list(by_protocol(s.probe))) for s in subjects] == [
        ("a", "a", ["meta-init", "same-task", "cross-task"]),
        ("raw pixels", None, ["meta-init"]),
    ]


def test_a_name_in_two_files_is_labelled_with_the_file() -> None:
    assert [s.label for s in material(one("a", 0, "r"), one("a", 1, "r")).subjects] == ["a (0.json)", "a (1.json)"]


def test_files_of_one_name_in_several_directories_get_numbers() -> None:
    sources = [source("probe.json", one("a", seed, "r")) for seed in (0, 1)]
    assert [s.label for s in probed(sources)] == ["a (probe.json) 1", "a (probe.json) 2"]


def test_the_paper_s_signs_belong_to_models_of_its_algorithms() -> None:
    subjects = material(full_probe()).subjects
    assert [(s.label, s.claims) for s in subjects] == [
        ("maml", {"same-task": 1, "cross-task": -1}),
        ("metasgd", {"same-task": -1, "cross-task": 1}),
    ]
    other = result("probe", {"a": cells(0.4, 0.01, 0.02)}, [used("a", "anil", 0, "r")])
    assert material(other).subjects[0].claims == {}
