"""Hand-placed points, so that each rule's answer can be read off a drawing."""

import pytest
import torch

from nilr.config.evaluation import NEIGHBOURS
from nilr.probes.neighbours import RULES, similarity

# Two classes on the plane. Class 0: (1, 0) and (9, 0); class 1: (0, 4) and (0, 6).
SUPPORT = torch.tensor([[1.0, 0.0], [9.0, 0.0], [0.0, 4.0], [0.0, 6.0]])
LABELS = torch.tensor([0, 0, 1, 1])
# The query (2, 3): the nearest point is (0, 4) at sqrt(5), of class 1; the class means (5, 0), (0, 5) are at sqrt(18)
# and sqrt(8); the angle to class 1 (33.7 degrees) is smaller than to class 0 (56.3).
# The query (4, 1): nearest (1, 0) at sqrt(10) against (0, 4) at 5; mean (5, 0) at sqrt(2): class 0; angle 14 degrees.
# The query (1, 1.9): nearest (1, 0) at 1.9 against (0, 4) at 2.33: class 0; means (5, 0) at 4.43 and (0, 5) at 3.26:
# class 1; the angle to class 1 is 27.8 degrees: class 1.
QUERIES = torch.tensor([[2.0, 3.0], [4.0, 1.0], [1.0, 1.9]])


@pytest.mark.parametrize(
    ("rule", "distance", "expected"),
    [
        ("nearest", "euclidean", [1, 0, 0]),
        ("class-mean", "euclidean", [1, 0, 1]),
        # exp(-d^2): the nearest dominates
        ("attention", "euclidean", [1, 0, 0]),
        ("nearest", "cosine", [1, 0, 1]),
        ("class-mean", "cosine", [1, 0, 1]),
        ("attention", "cosine", [1, 0, 1]),
    ],
)
def test_each_rule_gives_the_class_that_the_drawing_shows(rule: str, distance: str, expected: list[int]) -> None:
    scores = RULES[rule](QUERIES, SUPPORT, LABELS, 2, distance)  # type: ignore[arg-type]
    assert scores.shape == (3, 2)
    assert scores.argmax(-1).tolist() == expected


def test_similarities_are_cosines_or_negative_squared_distances() -> None:
    assert similarity(QUERIES[1:2], SUPPORT[:1], "cosine").item() == pytest.approx(4 / 17**0.5)
    assert similarity(QUERIES[1:2], SUPPORT[:1], "euclidean").item() == pytest.approx(-10.0)


def test_attention_is_a_distribution_over_classes() -> None:
    scores = RULES["attention"](QUERIES, SUPPORT, LABELS, 2, "cosine")
    assert torch.allclose(scores.sum(-1), torch.ones(3))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_nearest_and_class_mean_coincide_at_one_shot(distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    support, query = torch.rand(5, 8, generator=generator), torch.rand(20, 8, generator=generator)
    labels = torch.arange(5)
    answers = [RULES[rule](query, support, labels, 5, distance).argmax(-1) for rule in ("nearest", "class-mean")]  # type: ignore[arg-type]
    assert torch.equal(*answers)


def test_the_help_names_every_rule() -> None:
    assert list(NEIGHBOURS) == list(RULES)


def test_a_zero_feature_is_as_near_to_everything() -> None:
    assert similarity(torch.zeros(1, 2), SUPPORT, "cosine").tolist() == [[0.0, 0.0, 0.0, 0.0]]
