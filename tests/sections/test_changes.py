"""Differences of several models and seeds, measure by measure."""

from __future__ import annotations

import math
import statistics

import pytest

from nilr.report.numbers import points
from nilr.report.subjects import Subject
from nilr.sections import changes, geometry, universality_figure
from tests.report.material import full_probe, material


def subjects(seeds: int) -> list[Subject]:
    return list(material(full_probe(seeds=seeds)).subjects)


def test_each_model_keeps_its_difference_and_its_interval() -> None:
    found = changes.collect(subjects(1), universality_figure.differences)
    ridge = found["ridge regression"]["cross-task"]
    assert {label: (delta.mean, delta.ci95) for label, delta in ridge.items()} == {
        "maml": (pytest.approx(-0.006), 0.003),
        "metasgd": (pytest.approx(0.004), 0.003),
    }


def test_seeds_of_one_recipe_become_one_difference_with_an_interval_over_seeds() -> None:
    given = subjects(3)
    found = changes.collect(given, universality_figure.differences)["ridge regression"]["cross-task"]
    assert list(found) == ["maml, 3 seeds", "metasgd, 3 seeds"]
    means = [s.probe.universality["ridge"].cross_task.delta.mean for s in given if s.label.startswith("maml")]
    together = found["maml, 3 seeds"]
    assert together.mean == pytest.approx(statistics.fmean(means))
    # Student's t with two degrees of freedom: 4.303
    assert together.ci95 == pytest.approx(4.3027 * statistics.stdev(means) / math.sqrt(3), rel=1e-4)


def test_the_sentence_names_the_largest_difference_of_each_measure_and_protocol() -> None:
    found = changes.collect(subjects(1), geometry.differences)
    assert list(found) == ["inverse-cdnv", "inverse-directional-cdnv", "hyperplane-variation"]
    assert all(list(by_protocol) == ["same-task", "cross-task"] for by_protocol in found.values())
    words = changes.sentence(changes.collect(subjects(1), universality_figure.differences), points)
    assert words == (
        "Ridge regression, cross-task: the largest change is -0.60 ± 0.30, in maml. "
        "Logistic regression, cross-task: the largest change is -0.30 ± 0.30, in maml."
    )
