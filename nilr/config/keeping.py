"""Settings of the demo, of reports and of the registry's commands."""

from __future__ import annotations

from pathlib import Path

from nilr.config.base import MeasuringSettings, ReportFormat, Settings, setting


class ReportSettings(Settings):
    """`nilr report`: tables and figures from result files."""

    results: tuple[Path, ...] = setting((), "Result files of `nilr probe` and `nilr rates`; default: the newest probe.")
    out: Path | None = setting(
        None, "The page or text to write; its figures go into the folder NAME-figures.", shown="a table only"
    )
    format: ReportFormat | None = setting(
        None,
        "html: one page that needs no other file; md: Markdown; png: pictures alone, into the folder --out.",
        shown="as --out ends",
    )
    force: bool = setting(False, "Replace what is there.", env=False)


class DemoSettings(MeasuringSettings):
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


class ImportSettings(MeasuringSettings):
    """`nilr models import`: models that stand elsewhere -> models of the store."""

    sources: tuple[Path, ...] = setting((), "Directories of models, or single checkpoints (.safetensors).")
    name: str | None = setting(None, "Name in the store, of one SOURCE.", shown="the directory's", env=False)
    force: bool = setting(False, "Replace a model of that name.", env=False)
