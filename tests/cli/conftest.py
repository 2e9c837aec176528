"""Replacements of recipes, and the results that they return."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from nilr.config.base import Settings
from nilr.reporting import Reporter
from nilr.results.probe import ModelProbe, ProtocolMetrics
from nilr.results.records import DataUsed, Delta, Mean, ModelUsed
from nilr.results.result import Result

Install = Callable[[str, Callable[[Any, Reporter], Any]], list[Settings]]


def make_probe() -> Result[Any]:
    means = {"meta_init": 0.40, "same_task": 0.45, "cross_task": 0.38}
    figures = {
        name: ProtocolMetrics(
            accuracy=Mean(mean=mean, ci95=0.01, n_episodes=50),
            delta=None if name == "meta_init" else Delta(mean=mean - 0.40, ci95=0.005, p=0.0012),
        )
        for name, mean in means.items()
    }
    used = ModelUsed(name="maml", checkpoint="best", digest="d", outer_step=7, algo="maml", trained_on="toy")
    return Result[Any](
        schema_="nilr/probe/1",
        command="probe",
        config={},
        models=[used],
        data=DataUsed(name="toy", digest="d", image_size=32, split="test"),
        metrics={"maml": ModelProbe(**figures)},
        notes=["the last words"],
        environment={},
        started_at="2026-01-01T00:00:00+00:00",
        duration_seconds=1.0,
    )


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Replace a recipe by a function, and return the list of settings that it is called with."""

    def install(command: str, run: Callable[[Any, Reporter], Any]) -> list[Settings]:
        calls: list[Settings] = []

        def recorded(settings: Settings, reporter: Reporter) -> Any:
            calls.append(settings)
            return run(settings, reporter)

        name = f"nilr.recipes.{command.replace('-', '_')}"
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(run=recorded, next_command=lambda *_: "nilr results ls"))
        return calls

    return install


@pytest.fixture
def probe_result() -> Result[Any]:
    """Return the result of a probe of one model under all protocols."""
    return make_probe()


@pytest.fixture
def probes(install: Install, home: object, probe_result: Result[Any]) -> list[Settings]:
    """Let `nilr probe` return `probe_result`, and return the list of settings that it is called with."""
    return install("probe", lambda _settings, _reporter: probe_result)
