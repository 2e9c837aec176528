"""Sentences say nothing that cannot be true or that says nothing: odd results, and the sentence of every figure."""

import re
from typing import Any

import pytest

from nilr.report.contents import KINDS, contents
from nilr.report.figures.figure import History, Material
from tests.report.material import cells, full_probe, full_rates, material, rates_of, rates_result, result, used

ZERO = {"mean": 0.0, "ci95": 0.0, "p": None, "low": 0.0, "high": 0.0, "d": None, "verdict": "exactly zero"}
EMPTY = re.compile(r"nan|-0\.0+\b|\b0 of 0\b|\b1 (models|edits|seeds|episodes)\b|exactly 0 points|\(0\.0 %\)|± 0\.00 ")


def each(content: Any, change: Any, *, keys: tuple[str, ...] = ("delta", "delta_to_learned", "odd", "even")) -> Any:
    """Return a result with every difference in it changed."""
    if isinstance(content, list):
        return [each(item, change, keys=keys) for item in content]
    if not isinstance(content, dict):
        return content
    return {
        key: change(value) if key in keys and value is not None else each(value, change, keys=keys)
        for key, value in content.items()
    }


def unmoved(seeds: int = 1) -> dict[str, Any]:
    """Return a probe of models that adaptation does not move, such as ANIL's."""
    return each(full_probe(seeds), lambda _: ZERO)


def one_episode() -> dict[str, Any]:
    without = dict.fromkeys(("ci95", "p", "low", "high", "d"))
    return each(full_probe(), lambda value: {**value, **without})


def one_layer() -> dict[str, Any]:
    content = full_probe()
    for model in content["metrics"].values():
        for measures in model["similarity"].values():
            for layer in ("block1", "block2", "block3"):
                del measures[layer]
    return content


def never_negative(label: str) -> History:
    return History(label, range(0, 1000, 100), [0.0] * 10, {"block1": [0.0] * 10, "head": [0.0] * 10}, 900)


def positive_rates() -> dict[str, Any]:
    return rates_result(
        "maml", {"block1": rates_of(9, [0.0, 0.1], [9], 0.0), "head": rates_of(9, [0.0, 0.1], [9], 0.0)}
    )


ODD = {
    "unmoved": lambda: material(unmoved(), full_rates()),
    "unmoved seeds": lambda: material(unmoved(3)),
    "one episode": lambda: material(one_episode()),
    "one layer": lambda: material(one_layer()),
    "never negative": lambda: material(positive_rates(), histories=(never_negative("a"),)),
    "two never negative": lambda: material(histories=(never_negative("a"), never_negative("b"))),
    "one model": lambda: material(result("probe", {"m": cells(0.4, 0.02, 0.0)}, [used("m", "maml", 0, "r")])),
}


@pytest.mark.parametrize("odd", ODD)
def test_no_sentence_is_empty_of_content(odd: str) -> None:
    figures = contents(ODD[odd]()).figures
    assert figures
    for kind, drawing in figures:
        assert not EMPTY.search(drawing.sentence), f"{kind.name}: {drawing.sentence}"


def sentence(name: str, given: Material) -> str:
    drawing = next(kind for kind in KINDS if kind.name == name).make(given)
    assert drawing is not None
    return drawing.sentence


def test_a_model_that_adaptation_does_not_move_is_said_to_change_in_no_episode() -> None:
    assert sentence("protocols", material(unmoved())) == (
        "Same-task adaptation changes accuracy in no episode. Cross-task adaptation changes accuracy in no episode."
    )
    assert sentence("seeds", material(unmoved(3))).startswith(
        "maml, same-task, 3 seeds: accuracy changes in no episode; maml, cross-task"
    )
    assert sentence("layers", material(unmoved())).startswith("maml: same-task accuracy changes nowhere; cross-task")
    both = full_probe()
    both["metrics"]["maml"] = unmoved()["metrics"]["maml"]
    assert sentence("protocols", material(both)).startswith(
        "Same-task adaptation changes accuracy by -1.50 ± 0.30 points in metasgd, and in no episode in maml."
    )
    three = result(
        "probe", {**both["metrics"], "x": cells(0.4, 0.02, 0.02)}, [*both["models"], used("x", "maml", 0, None)]
    )
    assert sentence("protocols", material(three)).startswith(
        "Same-task adaptation raises accuracy in 1 of 3 models, lowers it in 1, and has no clear effect in 0; "
        "in 1 it changes no episode."
    )


def test_edits_that_change_nothing_are_not_counted_among_those_that_could() -> None:
    content = full_probe()
    del content["metrics"]["metasgd"]
    content["models"] = content["models"][:1]
    edits = content["metrics"]["maml"]["edits"]
    for name in ("zero-negative", "absolute", "shuffled-signs"):
        edits[name]["same-task"]["delta_to_learned"] = ZERO
    said = sentence("edits", material(content))
    assert said.startswith(
        "Same-task: compared with the learned rates, accuracy changes in 4 of 4 edits (p below 0.05 after Holm's "
        "correction); 3 more without effect in any episode. The largest change is -2.80 ± 0.30 points, with 0.01."
    )
    assert sentence("edits", material(unmoved())).startswith(
        "Same-task: compared with the learned rates, no edit changes accuracy in any episode."
    )


def test_one_episode_decides_nothing_and_is_not_counted() -> None:
    three = each(full_probe(seeds=2), lambda value: {**value, **dict.fromkeys(("ci95", "p", "low", "high", "d"))})
    assert "no clear effect" not in sentence("protocols", material(three))
    assert "after Holm" not in sentence("edits", material(three))


def test_a_layer_is_called_lowest_only_among_layers_that_differ() -> None:
    assert sentence("similarity", material(one_layer())).startswith("cka of maml (same-task) is 0.83 in block4")


def test_no_layer_leads_where_no_rate_is_negative() -> None:
    one, two = (
        material(histories=(never_negative("a"),)),
        material(histories=(never_negative("a"), never_negative("b"))),
    )
    assert sentence("share-negative", one) == sentence("share-negative", two) == "No rate is negative at any time."
    assert sentence("rates", material(positive_rates())) == "No rate is negative."
    gone = History("c", range(0, 200, 100), [0.2, 0.0], {"head": [0.4, 0.0]})
    assert sentence("share-negative", material(histories=(gone,))) == (
        "In c, 0.0 % of the rates are negative after 100 updates (20.0 % after 0)."
    )
    same = [History(name, range(0, 200, 100), [0.0, 0.2], {}) for name in ("c", "d")]
    assert sentence("share-negative", material(histories=tuple(same))) == (
        "At the end of training, 20.0 % of the rates of each model are negative."
    )


def test_the_sentences_of_full_results_are_not_empty_of_content() -> None:
    for _, drawing in contents(material(full_probe(3), full_rates())).figures:
        assert not EMPTY.search(drawing.sentence)
