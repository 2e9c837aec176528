"""`nilr models`: the registry. What these commands tell, but for `import`, is an answer, and so it goes to stdout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from nilr.cli.console import number, printable
from nilr.cli.measuring import body
from nilr.cli.options import Invocation, command
from nilr.config import ImportSettings, ModelSettings, ModelsSettings, Settings
from nilr.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from nilr.cli.console import Screen
    from nilr.recipes.models import ModelCard, ModelRow, RateRow

HELP = "List, show, check, remove and import the models in the store."

COMMANDS = {
    "ls": "List all models.",
    "show": "Show a model's card: settings, metrics, inner rates.",
    "path": "Print the path of a model's checkpoint.",
    "verify": "Read all files of models, or of all models, and check every digest.",
    "rm": "Remove models.",
    "import": "Copy models that stand elsewhere into the store, after checking every file.",
}


def build_app() -> typer.Typer:
    """Return the sub-commands."""
    app = typer.Typer(help=HELP)
    app.command("ls", help=COMMANDS["ls"])(command(Settings, _ls))
    app.command("show", help=COMMANDS["show"])(command(ModelSettings, _show))
    app.command("path", help=COMMANDS["path"])(command(ModelSettings, _path))
    app.command("verify", help=COMMANDS["verify"])(command(ModelsSettings, _verify))
    app.command("rm", help=COMMANDS["rm"])(command(ModelsSettings, _rm))
    app.command("import", help=COMMANDS["import"])(command(ImportSettings, body("models-import"), json=True))
    return app


def _ls(settings: Settings, _invocation: Invocation) -> None:
    from nilr.recipes.models import list_models

    screen, models = _stdout(), list_models(settings.home)
    if not models:
        typer.echo("there is no model in the store yet: `nilr meta-train` trains one", err=True)
        return
    header = ("name", "status", "algo", "arch", "task", "updates", "val accuracy", "saved at", "parent", "problem")
    screen.table(header, [_row(model, screen) for model in models])


def _row(model: ModelRow, screen: Screen) -> tuple[str | None, ...]:
    task = None if model.n_way is None or model.n_shot is None else f"{model.n_way}-way {model.n_shot}-shot"
    updates = None if model.outer_step is None else str(model.outer_step)
    if updates is not None and model.outer_steps is not None:
        updates = f"{updates}/{model.outer_steps}"
    accuracy, saved_at = screen.share(model.val_accuracy), model.saved_at and model.saved_at[:16].replace("T", " ")
    described = (model.name, model.status, model.algo, model.arch, task, updates)
    return (*described, accuracy, saved_at, model.parent, model.problem)


def _show(settings: ModelSettings, _invocation: Invocation) -> None:
    from nilr.recipes.models import show_model

    card, screen = show_model(settings.home, settings.model), _stdout()
    screen.table((f"{card.name}@{card.checkpoint}", ""), _facts(card))
    header = ("inner rates", "count", "min", "mean", "max", "negative")
    for rates in (card.rates_by_layer, card.rates_by_tensor):
        screen.line("")
        screen.table(header, [_rates(row, screen) for row in rates])


def _facts(card: ModelCard) -> list[tuple[str, str]]:
    manifest = card.manifest
    known = manifest.model_dump(mode="json", exclude={"settings", "metrics", "algorithm", "architecture"})
    groups = {
        "architecture": {"name": manifest.architecture.name, **manifest.architecture.arguments},
        "algorithm": manifest.algorithm,
        "settings": manifest.settings,
        "metrics": manifest.metrics,
    }
    facts = [(name, str(value)) for name, value in known.items() if value is not None]
    facts.append(("parameters", str(card.n_params)))
    for group, values in groups.items():
        facts += [(f"{group}.{name}", str(value)) for name, value in values.items() if value is not None]
    return facts


def _rates(row: RateRow, screen: Screen) -> tuple[str | None, ...]:
    spread = (number(row.min), number(row.mean), number(row.max))
    return (row.name, str(row.count), *spread, screen.share(row.share_negative))


def _path(settings: ModelSettings, _invocation: Invocation) -> None:
    from nilr.recipes.models import model_path

    typer.echo(str(model_path(settings.home, settings.model)))


def _verify(settings: ModelsSettings, _invocation: Invocation) -> None:
    from nilr.recipes.models import verify_models

    checks = verify_models(settings.home, settings.models)
    _stdout().table(("model", "file", "finding"), [(c.model, c.file, c.problem or "ok") for c in checks])
    broken = [f"{check.model}/{check.file}" for check in checks if check.problem]
    if broken:
        raise CheckpointError(f"{len(broken)} of {len(checks)} files cannot be used: {', '.join(broken)}")


def _rm(settings: ModelsSettings, invocation: Invocation) -> None:
    from nilr.recipes.models import remove_models

    if not settings.models:
        raise UsageError("no model is named", hint="name one or more, as `nilr models ls` lists them")
    remove_models(settings.home, settings.models)
    if not invocation.quiet:
        typer.echo(f"removed: {printable(', '.join(settings.models))}", err=True)


def _stdout() -> Screen:
    from nilr.cli.console import Screen, make_console

    return Screen(make_console(sys.stdout))
