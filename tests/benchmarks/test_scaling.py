from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module; its neighbours are found as they are when it runs."""
    monkeypatch.syspath_prepend(str(HERE))
    spec = importlib.util.spec_from_file_location("scaling", HERE / "scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("machine", "work"):
        monkeypatch.delitem(sys.modules, name)
    return module


def test_points_on_a_line_do_not_deviate(scaling: Any) -> None:
    x = [1.0, 2.0, 5.0, 10.0]
    y = [3.0 + 2.0 * point for point in x]
    assert scaling.fit(x, y) == pytest.approx((3.0, 2.0))
    assert scaling.deviations(x, y) == pytest.approx([0.0] * 4, abs=1e-12)


def test_the_deviation_is_relative_so_that_a_small_point_counts_as_much_as_a_large_one(scaling: Any) -> None:
    x, y = [1.0, 10.0, 100.0], [1.0, 10.0, 100.0]
    for i in range(3):
        changed = [cost * (1.3 if i == j else 1.0) for j, cost in enumerate(y)]
        found = [abs(deviation) for deviation in scaling.deviations(x, changed)]
        assert max(found) > 0.01
        assert max(found) < 0.3
    thousandfold = scaling.deviations([1000 * point for point in x], [1000 * cost for cost in changed])
    assert [abs(deviation) for deviation in thousandfold] == pytest.approx(found)


def test_quadratic_cost_is_not_within_15_percent_of_a_line(scaling: Any) -> None:
    x = [1.0, 2.0, 5.0, 10.0, 20.0]
    assert max(map(abs, scaling.deviations(x, [point**2 for point in x]))) > scaling.MOST


def test_a_report_gives_the_median_cost_and_the_verdict(scaling: Any, capsys: pytest.CaptureFixture[str]) -> None:
    straight = {1: [0.1, 0.3, 0.2], 2: [0.3, 0.3, 9.0], 5: [0.6, 0.6, 0.6]}
    scaling.report({("inner_steps", "one"): straight}, 2, 3, "explicit")
    said = capsys.readouterr().out
    assert "| inner_steps | CPU, 1 thread | 1: 0.200, 2: 0.300, 5: 0.600 |" in said
    assert said.endswith("Largest deviation 0.0%: within 15% of a straight line.\n")
    bent = {value: [value**2 * 0.1] for value in (1, 2, 5, 10, 20)}
    scaling.report({("n_way", "all"): bent}, 2, 1, "explicit")
    assert ": NOT within 15% of a straight line.\n" in capsys.readouterr().out


def test_on_all_threads_episodes_are_counted_in_whole_turns_of_the_threads(
    scaling: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = {1: [0.2], 4: [0.4], 16: [1.6], 64: [6.4]}  # two at once: one episode takes as long as two
    scaling.report({("episodes", "all"): costs}, 2, 1, "explicit")
    assert "Largest deviation 0.0%" in capsys.readouterr().out


def test_the_cost_per_operation_is_judged_by_its_distance_from_the_middle(
    scaling: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scaling.spread([1.0, 1.0]) == 0
    assert scaling.spread([0.75, 1.0, 1.25]) == pytest.approx(0.25)
    scaling.report_per_operation({"size": {32: [1.2, 9.0, 1.2], 84: [1.0]}}, scaling.Setup())
    assert "| size | 32: 1.2000, 84: 1.0000 | 9% |" in capsys.readouterr().out
    scaling.report_per_operation({"size": {32: [2.0], 84: [1.0]}}, scaling.Setup())
    assert "NOT within 25%" in capsys.readouterr().out
