"""Settings of the demo and of the registry's commands."""

from __future__ import annotations

from pathlib import Path

from nilr.config.base import Settings, setting


class DemoSettings(Settings):
    """`nilr demo`: all of it on generated images."""

    home: Path | None = setting(None, "Directory of the demo's own store.", shown="./nilr-demo", env=False)
    seed: int = setting(0, "Seed of every random stream.", ge=0, lt=2**63)
    device: str = setting("auto", "Where to compute: auto, cpu, cuda or cuda:N.")
    threads: int | None = setting(None, "CPU threads.", shown="one per core", ge=1)


class ModelSettings(Settings):
    """`nilr models show` and `nilr models path`."""

    model: str | None = setting(None, "Model: a name, NAME@best, NAME@last or a path.", shown="the one trained last")


class ModelsSettings(Settings):
    """`nilr models verify`, all models by default, and `nilr models rm`."""

    models: tuple[str, ...] = setting((), "Names of models.")
