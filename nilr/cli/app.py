"""The Typer application, made from the table of commands."""

from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from nilr import __version__
from nilr.cli.help import help_text
from nilr.cli.options import DEBUG_HELP, QUIET_HELP, SWITCH, Invocation, complete_values, typer_function
from nilr.cli.run import run_command
from nilr.cli.topics import COMMON
from nilr.commands import COMMANDS, GROUPS
from nilr.errors import UsageError

HELP_FLAGS = ["--help", "-h"]
HOME_HELP = "Directory of the store: datasets, models, results. Default: NILR_HOME, else the user data directory."
HELP = "Measure what learned inner-loop learning rates do to a meta-learner's features."
EPILOG = (
    "--config FILE reads settings from a TOML file (n_way = 5 is --n-way 5), --save-config FILE writes those that were "
    "given. Environment variables set options too: NILR_OUTER_STEPS=100 is --outer-steps 100. Exceptions are --name, "
    "--json, --config, --save-config, --dry-run, --force, --resume, --verify and --yes. Unknown variables that start "
    "with NILR_ are named in a warning. Every command that measures also stores its result in the store."
)


class _Parsing:
    """Shows help of its own, and gives no option another option as its value."""

    def get_help_option(self, ctx: Any) -> Any:  # noqa: ANN401 - Typer does not export these classes
        option = super().get_help_option(ctx)  # type: ignore[misc]
        option.metavar, option.rich_help_panel = SWITCH, COMMON
        return option

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        formatter.write(help_text(self, ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        options = [option for option in self.get_params(ctx) if option.param_type_name == "option"]  # type: ignore[attr-defined]
        if not ctx.resilient_parsing:  # which a completion is
            hint = f"see `{ctx.command_path} --help`"
            args = complete_values(options, args, hint, interspersed=ctx.allow_interspersed_args)
        return super().parse_args(ctx, args)  # type: ignore[misc, no-any-return]


class _Command(_Parsing, TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - Typer does not export these classes
        """Repeat a flag of several values before each further file, since a shell expands `--query *.jpg` to them.

        A model in the store is no such file.
        """
        repeated = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        models = cache(lambda: _models(ctx, args))
        expanded: list[str] = []
        flag = None
        for arg in args:
            if arg.startswith("-"):
                name = arg.partition("=")[0]
                flag = name if name in repeated else None
            elif flag and expanded[-1] != flag and _is_file_to_read(arg) and arg not in models():
                expanded.append(flag)
            expanded.append(arg)
        return super().parse_args(ctx, expanded)


def _is_file_to_read(arg: str) -> bool:
    return Path(arg).suffix not in ("", ".safetensors") and Path(arg).is_file()


def _models(ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
    """Return the names of the models in the store of a command line."""
    from nilr.store import Store

    homes = [arg.partition("=")[2] or value for arg, value in pairwise([*args, ""]) if arg.split("=")[0] == "--home"]
    return Store(Path(homes[-1]) if homes else ctx.obj.home).model_names()


class _Group(_Parsing, TyperGroup):
    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        """Show help if nothing follows the name of the group."""
        if ctx._protected_args:
            return super().invoke(ctx)
        if ctx.params.get("version") or ctx.params.get("verbose"):
            return ctx.invoke(self.callback, **ctx.params)
        return typer.echo(ctx.get_help())


def build_app() -> typer.Typer:
    """Return the whole command line."""
    app = typer.Typer(
        cls=_Group, add_completion=True, help=HELP, epilog=EPILOG, context_settings={"help_option_names": HELP_FLAGS}
    )
    app.callback()(_set_common_options)
    groups = {name: typer.Typer(cls=_Group, help=text) for name, text in GROUPS.items()}
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        function = typer_function(
            command.settings,
            partial(run_command, command),
            json=command.result is not None or command.lists,
            dry_run=command.dry_run is not None,
        )
        groups.get(group, app).command(name, cls=_Command, help=command.help)(function)
    for name, sub_app in groups.items():
        app.add_typer(sub_app, name=name)
    app.command("help", cls=_Command, help="Show the help of a command: `nilr help probe`.")(_show_help)
    return app


def _show_help(
    ctx: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", help="Command.", show_default=False)] = None,
) -> None:
    found: Any = ctx.find_root()
    for word in words or ():
        _, command, _ = found.command.resolve_command(found, [word])
        found = typer.Context(command, parent=found, info_name=word)
        if not hasattr(command, "commands"):
            break
    typer.echo(found.get_help())


def _show_version(ctx: typer.Context, home: Path | None, *, verbose: bool) -> None:
    text = f"nilr {__version__}"
    if verbose:
        from nilr.cli.version import describe_installation

        text = describe_installation(home)
    typer.echo(text)
    ctx.exit()


def _set_common_options(
    ctx: typer.Context,
    home: Annotated[Path | None, typer.Option("--home", metavar="DIR", help=HOME_HELP, rich_help_panel=COMMON)] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", metavar=SWITCH, help=QUIET_HELP, rich_help_panel=COMMON)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", metavar=SWITCH, help=DEBUG_HELP, rich_help_panel=COMMON)] = False,
    version: Annotated[bool, typer.Option("--version", metavar=SWITCH, help="Show the version.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", metavar=SWITCH, help="With --version, show what a report of a bug needs.")
    ] = False,
) -> None:
    invocation: Invocation = ctx.obj
    invocation.home, invocation.quiet, invocation.debug = home, quiet, debug
    if version:
        _show_version(ctx, home, verbose=verbose)
    if verbose:
        raise UsageError("--verbose belongs to --version", hint="nilr --version --verbose")
