"""The Typer application, made from the table of commands. Only the command that is used imports its settings."""

from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from nilr import __version__
from nilr.cli.help import help_text
from nilr.cli.parsing import DEBUG_HELP, QUIET_HELP, SWITCH, Invocation, complete_values
from nilr.cli.topics import COMMON
from nilr.commands import COMMANDS, GROUPS, Command
from nilr.errors import UsageError

if TYPE_CHECKING:
    from nilr.config.base import Settings

HELP_FLAGS = ["--help", "-h"]
HOME_HELP = "Directory of the store: packs, models, results. Default: NILR_HOME, else the user data directory."
HELP = "Measure what learned inner-loop learning rates do to a meta-learner's features."
EPILOG = (
    "Every command that measures stores its result in the store; --json FILE also writes it to a file, --json alone to "
    "standard output. --log-file FILE appends messages, progress and errors with their times. --config FILE reads "
    "settings from a TOML file (n_way = 5 is --n-way 5), --save-config FILE writes those that were given. Environment "
    "variables set options too: NILR_OUTER_STEPS=100 is --outer-steps 100. Exceptions are --name, --json, --config, "
    "--save-config, --log-file, --dry-run, --force, --resume, --verify and --yes. Unknown variables that start with "
    "NILR_ are named in a warning."
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
        parameters = self.get_params(ctx)  # type: ignore[attr-defined]
        hint = f"see `{ctx.command_path} --help`"
        args = complete_values(parameters, args, hint, interspersed=ctx.allow_interspersed_args)
        return super().parse_args(ctx, args)  # type: ignore[misc, no-any-return]


class _Command(_Parsing, TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - Typer does not export these classes
        """Repeat a flag of several values before each further file, since a shell expands `--query *.jpg` to them.

        A model in the store is not such a file.
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
    home = homes[-1] if homes else ctx.obj.home
    return Store(Path(home) if home else None).model_names()


class _LazyCommand(_Command):
    """A command of the table, whose parameters and function are made when they are needed."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.name.rpartition(" ")[2], help=command.help)
        self._command = command

    @cached_property
    def _made(self) -> Any:  # noqa: ANN401 - Typer does not export these classes
        from nilr.cli.options import typer_function

        def run(settings: "Settings", invocation: Invocation) -> None:
            from nilr.cli.run import run_command

            run_command(self._command, settings, invocation)

        app = typer.Typer(add_completion=False)
        json, dry_run = self._command.result is not None or self._command.lists, self._command.dry_run is not None
        app.command()(typer_function(self._command.settings, run, json=json, dry_run=dry_run))
        return typer.main.get_command(app)

    @property
    def params(self) -> Any:  # noqa: ANN401
        return self._made.params

    @params.setter
    def params(self, _none: Any) -> None:  # noqa: ANN401 - Typer sets those that it knows of
        """Ignore the parameters that the base class sets."""

    @property
    def callback(self) -> Any:  # noqa: ANN401
        return self._made.callback

    @callback.setter
    def callback(self, _none: Any) -> None:  # noqa: ANN401
        """Ignore the function that the base class sets."""


class _Group(_Parsing, TyperGroup):
    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        """Show help if nothing follows the name of the group."""
        if ctx._protected_args:
            return super().invoke(ctx)
        if ctx.params.get("version") or ctx.params.get("verbose"):
            return ctx.invoke(self.callback, **ctx.params)
        return typer.echo(ctx.get_help())


def build_command() -> Any:  # noqa: ANN401 - Typer does not export these classes
    """Return the whole command line."""
    app = typer.Typer(
        cls=_Group, add_completion=True, help=HELP, epilog=EPILOG, context_settings={"help_option_names": HELP_FLAGS}
    )
    app.callback()(_set_common_options)
    app.command("help", cls=_Command, help="Show the help of a command: `nilr help probe`.")(_show_help)
    root: Any = typer.main.get_command(app)
    groups = {name: _Group(name=name, help=text, commands={}) for name, text in GROUPS.items()}
    commands: dict[str, Any] = {}
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        (groups[group].commands if group else commands)[name] = _LazyCommand(command)
    root.commands = {**commands, **root.commands, **groups}
    return root


def _show_help(
    ctx: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", help="Command.", show_default=False)] = None,
) -> None:
    found: Any = ctx.find_root()
    for word in words or ():
        if not hasattr(found.command, "commands"):
            raise UsageError(
                f"`{found.command_path}` has no command `{word}`", hint=f"see `{found.command_path} --help`"
            )
        _, command, _ = found.command.resolve_command(found, [word])
        found = typer.Context(command, parent=found, info_name=word)
    typer.echo(found.get_help())


def _show_version(ctx: typer.Context, home: str | None, *, verbose: bool) -> None:
    text = f"nilr {__version__}"
    if verbose:
        from nilr.cli.version import describe_installation

        text = describe_installation(Path(home) if home else None)
    typer.echo(text)
    ctx.exit()


def _set_common_options(
    ctx: typer.Context,
    home: Annotated[str | None, typer.Option("--home", metavar="DIR", help=HOME_HELP, rich_help_panel=COMMON)] = None,
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
