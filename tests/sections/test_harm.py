"""Queries that adaptation turns, and what chance gives: by hand, by enumeration and by simulation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from nilr.episodes import Episode
from nilr.inference import outcomes_by_chance
from nilr.probes.conditions import Condition, Quantity, View
from nilr.probes.readings import NeighbourAccuracy, TurnedQueries
from nilr.sections.harm import SECTION
from nilr.sections.values import Values


def view(support: list[float], queries: list[float]) -> View:
    """Return a view whose features are the given points on a line."""
    labels, of_queries = torch.tensor([0, 1]), torch.tensor([0, 0, 0, 1, 1])
    episode = Episode(torch.zeros(2, 3, 1, 1), labels, torch.zeros(5, 3, 1, 1), of_queries)
    found = View(None, {}, episode, "apart")  # type: ignore[arg-type]
    found.__dict__["features"] = tuple(torch.tensor(points)[:, None] for points in (support, queries))
    return found


def test_queries_that_turn_are_counted_in_both_ways() -> None:
    # near 0 is class 0, near 1 is class 1; the first three queries are of class 0
    before = view([0, 1], [0.1, 0.2, 0.9, 0.8, 0.3])  # right, right, wrong, right, wrong
    after = view([0, 1], [0.8, 0.1, 0.2, 0.9, 0.9])  # wrong, right, right, right, right
    accuracy = NeighbourAccuracy("nearest", "euclidean")
    assert TurnedQueries(accuracy, "right")(after, before) == 2
    assert TurnedQueries(accuracy, "wrong")(after, before) == 1
    assert (accuracy(before, before), accuracy(after, before)) == pytest.approx((3 / 5, 4 / 5))


def test_chance_is_the_share_of_all_ways_to_turn() -> None:
    most, tie = outcomes_by_chance(torch.arange(12))
    for turned in range(12):
        ways = [sum(way) for way in itertools.product((-1, 1), repeat=turned)]
        assert most[turned].item() == pytest.approx(sum(way < 0 for way in ways) / len(ways))
        assert tie[turned].item() == pytest.approx(sum(way == 0 for way in ways) / len(ways))


def summarise(right: Tensor, wrong: Tensor) -> dict[str, dict[str, dict[str, float]]]:
    """Return the section of episodes with given numbers of turned queries."""
    condition, accuracy = Condition("same-task"), NeighbourAccuracy("nearest", "cosine")
    entry = {f"turned-{to}": Quantity(condition, TurnedQueries(accuracy, to)) for to in ("right", "wrong")}  # type: ignore[arg-type]
    values = Values(dict(zip(entry.values(), (right.double(), wrong.double()), strict=True)))
    return SECTION.build(entry, values).model_dump()  # type: ignore[attr-defined]


def test_shares_of_episodes_by_hand() -> None:
    found = summarise(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 2, 2]))
    assert [found[name]["share"]["mean"] for name in ("harmed", "helped", "unchanged")] == [0.25, 0.25, 0.5]
    # 0, 1, 4 and 2 queries turn: ties with probability 1, 0, 6/16 and 2/4
    assert found["unchanged"]["chance"]["mean"] == pytest.approx((1 + 0 + 6 / 16 + 2 / 4) / 4)
    assert found["harmed"]["chance"]["mean"] == pytest.approx((0 + 1 / 2 + 5 / 16 + 1 / 4) / 4)
    assert found["harmed"]["excess"]["mean"] == pytest.approx(0.25 - (1 / 2 + 5 / 16 + 1 / 4) / 4)
    assert found["turned-wrong"]["mean"] == 1


def simulated(*, together: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Draw 4,000 episodes of 75 queries right with probability 0.4, before and after, without an effect on average."""
    generator = torch.Generator().manual_seed(0)

    def drawn(probability: Tensor) -> Tensor:
        return torch.rand(4000, 75, generator=generator) < probability

    shift = 0.15 * (2.0 * (torch.rand(4000, 1, generator=generator) < 0.5) - 1) if together else torch.zeros(4000, 1)
    before, after = drawn(torch.tensor(0.4)), drawn(0.4 + shift)
    return summarise((after & ~before).sum(1), (before & ~after).sum(1))


def test_independent_queries_without_effect_have_no_excess() -> None:
    for outcome in ("harmed", "helped", "unchanged"):
        excess = simulated(together=False)[outcome]["excess"]
        # 4 standard errors
        assert abs(excess["mean"]) < 2 * excess["ci95"], outcome


def test_queries_that_turn_together_harm_and_help_more_episodes_than_chance() -> None:
    found = simulated(together=True)
    for outcome in ("harmed", "helped"):
        assert found[outcome]["excess"]["mean"] - found[outcome]["excess"]["ci95"] > 0


def test_nothing_is_turned_at_the_meta_initialisation() -> None:
    here = view([0, 1], [0.1, 0.2, 0.9, 0.8, 0.3])
    assert TurnedQueries(NeighbourAccuracy("nearest", "euclidean"), "wrong")(here, here) == 0
