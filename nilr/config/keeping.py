"""Settings of `nilr demo`, `nilr report` and `nilr models`."""

from __future__ import annotations

from pathlib import Path

from nilr.config.base import MeasuringSettings, ReportFormat, Settings, setting


class ReportSettings(Settings):
    """`nilr report`: make tables and figures from result files."""

    results: tuple[Path, ...] = setting((), "Result files of `nilr probe` and `nilr rates`; default: the newest probe.")
    out: Path | None = setting(
        None, "Page or text to write; its figures are written to the folder NAME-figures.", shown="print a table"
    )
    format: ReportFormat | None = setting(
        None,
        "html: one self-contained page; md: Markdown; png: figures only, in the folder --out.",
        shown="the extension of --out",
    )
    force: bool = setting(False, "Replace existing files.", env=False)


class DemoSettings(MeasuringSettings):
    """`nilr demo`: run all steps on generated images."""

    home: Path | None = setting(None, "Directory of the demo's store.", shown="./nilr-demo", env=False)
    seed: int = setting(0, "Seed of all random numbers.", ge=0, lt=2**63)
    device: str = setting("auto", "Device to compute on: auto, cpu, cuda or cuda:N.")
    threads: int | None = setting(None, "Number of CPU threads.", shown="one per core", ge=1)


class ModelSettings(Settings):
    """`nilr models show` and `nilr models path`."""

    model: str | None = setting(
        None, "Model: a name, NAME@best, NAME@last or a path.", shown="the latest trained model"
    )


class ModelsSettings(Settings):
    """`nilr models verify` (default: all models)."""

    models: tuple[str, ...] = setting((), "Names of models.")


class RemoveSettings(ModelsSettings):
    """`nilr models rm`."""

    yes: bool = setting(False, "Do not ask for confirmation; required without a terminal.", short="-y", env=False)


class ImportSettings(MeasuringSettings):
    """`nilr models import`: copy models into the store."""

    sources: tuple[Path, ...] = setting((), "Directories of models, or single checkpoints (.safetensors).")
    name: str | None = setting(
        None, "Name of the model in the store, for a single SOURCE.", shown="the directory's name", env=False
    )
    force: bool = setting(False, "Replace a model with the same name.", env=False)
