"""Settings of the commands `nilr results`, and of `nilr report`."""

from pathlib import Path
from typing import Literal

from nilr.config.base import FigureStyle, FigureWidth, ReportFormat, Settings, setting

TableFormat = Literal["csv", "parquet", "json"]


class ResultSettings(Settings):
    """`nilr results show` (default: the newest result)."""

    results: tuple[Path, ...] = setting(
        (), "Results: names, beginnings of names, patterns such as '*-probe-*', or paths."
    )


class ResultListSettings(ResultSettings):
    """`nilr results ls` (default: the newest results)."""

    kind: str | None = setting(None, "Only results of this command, such as probe.", shown="all", offers=("{kinds}",))
    uses: str | None = setting(None, "Only results that used this model.", shown="all")
    limit: int = setting(30, "Maximum number of results; the newest ones.", ge=1)


class ResultRemoveSettings(ResultSettings):
    """`nilr results rm`."""

    yes: bool = setting(False, "Do not ask for confirmation; required without a terminal.", short="-y", env=False)


class ResultExportSettings(ResultSettings):
    """`nilr results export`: write results as two tables for pandas (default: all results)."""

    output: Path | None = setting(
        None,
        "Beginning of the files' names: OUTPUT-summary and OUTPUT-episodes. An ending such as .csv selects the format.",
        shown="results",
    )
    format: TableFormat | None = setting(None, "Format of the tables.", shown="the ending of --output, else csv")
    force: bool = setting(False, "Replace existing files.", env=False)


class ReportSettings(Settings):
    """`nilr report`: make tables and figures from result files."""

    results: tuple[Path, ...] = setting(
        (),
        "Results of `probe`, `rates` and `reproduce`: paths, names, beginnings of names or patterns. The name of a "
        "model, or a pattern such as 'cpu-maml-s*', stands for its newest probe and rates. Default: the newest probe.",
    )
    out: Path | None = setting(
        None, "Page or text to write; its figures are written to the folder NAME-figures.", shown="print a table"
    )
    format: ReportFormat | None = setting(
        None,
        "html: one self-contained page; md: Markdown; pdf, svg, png: figures alone, in the folder --out.",
        shown="the extension of --out",
    )
    style: FigureStyle | None = setting(
        None,
        "Look of files of figures: screen, or paper (8 pt serif, as wide as --width).",
        shown="paper with --width, else screen",
    )
    width: FigureWidth | None = setting(
        None, "Width of files of figures for a paper: column (3.35 in) or page (7 in).", shown="page with --style paper"
    )
    force: bool = setting(False, "Replace existing files.", env=False)
