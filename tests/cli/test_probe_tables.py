from __future__ import annotations

import re
from typing import Any

import pytest

from nilr.results.probe import DirectionProbe, EditMetrics, GeometryProbe, HeadProbe, Row
from nilr.results.records import DataUsed, Mean
from nilr.results.result import Result
from tests.cli.screens import Terminal, shown


@pytest.fixture
def full(probe_result: Result[Any]) -> Result[Any]:
    """Return a probe with every section, whose rows repeat the protocols' own figures."""
    model = probe_result.metrics["maml"]
    row = Row(meta_init=model.meta_init, same_task=model.same_task, cross_task=model.cross_task)
    unmoved = Row(same_task=model.meta_init, cross_task=model.meta_init)
    value = Mean(mean=0.98765, ci95=0.001, n_episodes=50)
    between = {"cka": value, "svcca": None, "cosine": value}
    within = {"within-class-cosine": value, "between-class-cosine": value}
    after = EditMetrics(accuracy=model.same_task.accuracy, delta=model.same_task.delta)
    negated = after.model_copy(update={"delta_to_learned": model.cross_task.delta})
    same, cross = model.same_task, model.cross_task
    parts = {"learned": same, "negative": cross, "random_signs": cross, "odd": cross.delta, "even": same.delta}
    layer, whole = DirectionProbe(**parts), DirectionProbe(**parts, twice=same, gaussian=cross)
    sections = {
        "own_head": {
            "learned": HeadProbe(meta_init=model.meta_init, same_task=after),
            "negated": HeadProbe(meta_init=model.meta_init, same_task=negated),
        },
        "directions": {"same-task": {"body": whole, "block1": layer}},
        "layers": {"block1": row, "block2": row},
        "steps": {"0": unmoved, "1": Row(same_task=model.same_task, cross_task=model.cross_task)},
        "shared_classes": {"0.2": Row(cross_task=model.cross_task)},
        "geometry": {
            "inverse-cdnv": {
                "meta-init": GeometryProbe(value=value),
                "same-task": GeometryProbe(value=value, difference=Mean(mean=-0.0321, ci95=0.004, n_episodes=50)),
            }
        },
        "universality": {"ridge": Row(meta_init=model.meta_init, cross_task=model.cross_task)},
        "similarity": {"meta-init": {"block1": within}, "cross-task": {"block1": between | within}},
    }
    return probe_result.model_copy(update={"metrics": {"maml": model.model_copy(update=sections)}})


def test_each_section_is_a_table_of_its_own(full: Result[Any]) -> None:
    assert [re.sub(" {2,}", "  ", line) for line in shown(full)[5:]] == [
        "model  rates  own head before, %  after, %  delta, points  delta to learned, points",
        "maml  learned  40.00 ± 1.00  45.00 ± 1.00  +5.00 ± 0.50  -",
        "maml  negated  40.00 ± 1.00  45.00 ± 1.00  +5.00 ± 0.50  -2.00 ± 0.50",
        "model  protocol  displaced  effect, points  odd, points  even, points"
        "  negative, points  twice, points  random signs, points  gaussian, points",
        "maml  same-task  body  +5.00 ± 0.50  -2.00 ± 0.50  +5.00 ± 0.50  -2.00 ± 0.50"
        "  +5.00 ± 0.50  -2.00 ± 0.50  -2.00 ± 0.50",
        "maml  same-task  block1  +5.00 ± 0.50  -2.00 ± 0.50  +5.00 ± 0.50  -2.00 ± 0.50  -  -2.00 ± 0.50  -",
        "model  layer  meta-init, %  same-task delta, points  cross-task delta, points",
        "maml  block1  40.00 ± 1.00  +5.00 ± 0.50  -2.00 ± 0.50",
        "maml  block2  40.00 ± 1.00  +5.00 ± 0.50  -2.00 ± 0.50",
        "model  inner steps  meta-init, %  same-task delta, points  cross-task delta, points",
        "maml  0  40.00 ± 1.00  0.00  0.00",
        "maml  1  40.00 ± 1.00  +5.00 ± 0.50  -2.00 ± 0.50",
        "model  shared classes  meta-init, %  same-task delta  cross-task delta, points",
        "maml  0.2  40.00 ± 1.00  -  -2.00 ± 0.50",
        "model  linear classifier  meta-init, %  same-task delta  cross-task delta, points",
        "maml  ridge  40.00 ± 1.00  -  -2.00 ± 0.50",
        "model  layer  protocol  CKA  SVCCA  cosine  within class  between",
        "maml  block1  meta-init  -  -  -  0.988  0.988",
        "maml  block1  cross-task  0.988  -  0.988  0.988  0.988",
        "model  geometry  meta-init  same-task delta  cross-task delta",
        "maml  inverse-cdnv  0.988  -0.0321 ± 0.0040  -",
    ]


def test_every_table_fits_a_narrow_terminal(full: Result[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    both = full.model_copy(update={"metrics": {"maml": full.metrics["maml"], "metasgd-2": full.metrics["maml"]}})
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in shown(both, Terminal())]
    assert max(map(len, lines)) <= 80
    # no row is wrapped: each line has the last cell of its row
    for model in ("maml", "metasgd-2"):
        assert sum(line.count("-2.00 ± 0.50") for line in lines if line.startswith(f" {model} ")) == 14
        assert sum(line.count("0.988") for line in lines if line.startswith(f" {model} ")) == 7


def test_a_probe_on_another_pack_says_both(probe_result: Result[Any]) -> None:
    other = DataUsed(name="birds", digest="e", image_size=32, split="test")
    first = shown(probe_result.model_copy(update={"data_b": other}))[0]
    assert first == "maml@best (maml, update 7) on the test split of `birds`, adapted to `toy` in cross-task"
