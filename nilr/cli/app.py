"""The table of commands, and the Typer application made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from nilr import __version__
from nilr.cli import measuring, models, report
from nilr.cli.options import SWITCH, Invocation, command
from nilr.config import (
    AdaptSettings,
    BenchSettings,
    DemoSettings,
    PrepareDataSettings,
    ProbeSettings,
    RatesSettings,
    ReportSettings,
    ReproduceSettings,
    Settings,
    TrainSettings,
)

HELP = "Measure what learned inner-loop learning rates do to a meta-learner's features."
EPILOG = (
    "Options may come from the environment: NILR_OUTER_STEPS=100 is --outer-steps 100; only --name, --json, --force, "
    "--resume and --verify may not. Every command that measures also stores its result in the store."
)


@dataclass(frozen=True)
class Measuring:
    """A command that measures: `nilr.recipes.<name>` runs it, and `nilr.cli.measuring` shows its result.

    Attributes:
        name: as the user writes it.
        help: one sentence.
        settings: its settings model.
    """

    name: str
    help: str
    settings: type[Settings]


COMMANDS = (
    Measuring(
        "prepare-data", "Pack Mini-ImageNet, or any class-labelled images, into one HDF5 file.", PrepareDataSettings
    ),
    Measuring("meta-train", "Learn a meta-initialisation, and rates, from a packed dataset.", TrainSettings),
    Measuring("adapt", "Adapt a model to one episode, or to your own labelled images.", AdaptSettings),
    Measuring("probe", "Judge features before and after adaptation.", ProbeSettings),
    Measuring("rates", "Look at the inner learning rates, layer by layer.", RatesSettings),
    Measuring("bench", "Measure how fast this machine is, and how long a training will take.", BenchSettings),
    Measuring(
        "reproduce", "Run the whole experiment over seeds, to a verdict on the paper's signs.", ReproduceSettings
    ),
    Measuring("demo", "Do all of it on generated images, in under three minutes.", DemoSettings),
)


def build_app() -> typer.Typer:
    """Return the whole command line."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", help=HELP, epilog=EPILOG)
    app.callback()(_before_the_command)
    for entry in COMMANDS:
        body = measuring.body(entry.name)
        app.command(entry.name, help=entry.help)(command(entry.settings, body, json=True))
    app.command("report", help=report.HELP)(command(ReportSettings, report.body))
    app.add_typer(models.build_app(), name="models")
    return app


def _show_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"nilr {__version__}")
        raise typer.Exit


def _before_the_command(
    ctx: typer.Context,
    home: Annotated[Path | None, typer.Option("--home", help="Directory of the store.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", metavar=SWITCH, help="Say nothing but errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", metavar=SWITCH, help="Show tracebacks.")] = False,
    version: Annotated[
        bool | None,
        typer.Option("--version", metavar=SWITCH, help="Show the version.", callback=_show_version, is_eager=True),
    ] = None,
) -> None:
    invocation: Invocation = ctx.obj
    invocation.home, invocation.quiet, invocation.debug = home, quiet, debug
