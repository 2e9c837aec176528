"""How the command line runs one command: recipe, progress, copies of the result, and what the screen shows."""

import contextlib
import json
import os
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nilr import distributed
from nilr.cli.config_file import config_text
from nilr.cli.destinations import STANDARD_OUTPUT, checked_destination
from nilr.cli.parsing import Invocation
from nilr.cli.variables import variable_warnings
from nilr.commands import COMMANDS, Command
from nilr.config.base import ClusterSettings, Settings
from nilr.config.models import RemoveSettings
from nilr.config.packs import RemovePacksSettings
from nilr.config.results import ResultRemoveSettings
from nilr.errors import Interrupted, NilrError, StoreError, UsageError
from nilr.files import check_writable, write_output
from nilr.reporting import Reporter, SilentReporter
from nilr.results.records import Record
from nilr.results.result import Result, to_json, write_result
from nilr.signals import ending_the_process
from nilr.words import some

if TYPE_CHECKING:
    from nilr.cli.console import Screen


def run_command(command: Command, settings: Settings, invocation: Invocation) -> None:
    """Run a command, store and copy its result, and show it.

    Recipe and display are imported here: help must not wait for torch.
    """
    _check(command, settings, invocation)
    with ending_the_process():
        from nilr.cli.console import Screen, make_console
        from nilr.cli.log_file import logging, write_log
        from nilr.cli.progress import make_reporter

        recipe, show = pkgutil.resolve_name(command.recipe), pkgutil.resolve_name(command.show)
    console, stored = make_console(sys.stderr), None
    screen = Screen(console, quiet=invocation.quiet)
    json_on_terminal = invocation.json in STANDARD_OUTPUT and sys.stdout.isatty()
    if invocation.json in STANDARD_OUTPUT:
        screen.answer = screen
    if invocation.save_config is not None and distributed.prints():
        _write(invocation.save_config, config_text(settings, command.name))
    if invocation.dry_run and command.dry_run is not None:
        rows = pkgutil.resolve_name(command.dry_run)(settings, SilentReporter())
        write_log(invocation, *(f"{name:<10}{value}" for name, value in rows.items()))
        _show_dry_run(rows, invocation.json, None if json_on_terminal else screen.answer)
        return
    try:
        with logging(invocation, make_reporter(console, quiet=invocation.quiet)) as reporter:
            distributed.join()
            returned = recipe(settings, reporter)
            distributed.leave()
        if not distributed.prints():
            return
        try:
            _copy(invocation.json, returned)
        finally:
            if _stores(command):
                stored = _store(settings.home, returned)
                write_log(invocation, f"result: {stored}")
    except Interrupted as interrupted:
        if command.result is None or interrupted.hint:
            raise
        hint = "no result was stored; to start again, repeat the command"
        raise Interrupted(interrupted.signum, hint=hint) from None
    if not json_on_terminal:
        show(returned, screen)
    _show_paths(command, settings, returned, stored, screen, reporter)
    if command.check is not None:
        pkgutil.resolve_name(command.check)(settings, returned)


def _show_paths(
    command: Command,
    settings: Settings,
    returned: Any,  # noqa: ANN401 - a result, or a list of records
    stored: Path | None,
    screen: "Screen",
    reporter: Reporter,
) -> None:
    """Show the next command, the notes, and what was written where."""
    if command.next is not None:
        with contextlib.suppress(NilrError):  # another process may have removed the model
            screen.line(f"next: {pkgutil.resolve_name(command.next)(settings, returned)}", wrap=False)
    if stored is not None:
        screen.line(f"result: {stored}")
    for note in returned.notes if command.result else ():
        if note not in reporter.noted:
            screen.line(note)
    for what, path in reporter.files:
        screen.line(f"{what}: {path}", wrap=False)


def _show_dry_run(rows: dict[str, str], file: str | None, answer: "Screen | None") -> None:
    if file is not None:
        if Path(file).is_file():
            raise StoreError(f"`{file}` exists, and a dry run replaces no file", hint="use --json without a file")
        _write(file, json.dumps(rows, indent=1, ensure_ascii=False).encode())
    if answer is not None:
        for name, value in rows.items():
            answer.line(f"{name:<10}{value}", indent=10)


def _check(command: Command, settings: Settings, invocation: Invocation) -> None:
    """Check before the work, and before slow imports, whatever can be checked; ask for a confirmation if necessary."""
    _check_working_directory()
    if invocation.log_file is not None:
        from nilr.cli.log_file import open_log

        open_log(invocation)
    _check_processes(command, settings)
    invocation.quiet |= not distributed.prints()
    for warning in () if invocation.quiet else variable_warnings(os.environ):
        typer.echo(f"warning: {warning}", err=True)
    if invocation.json is not None:
        invocation.json = checked_destination(invocation.json, "--json")
    if invocation.save_config is not None:
        others = (invocation.json,)
        invocation.save_config = checked_destination(invocation.save_config, "--save-config", others=others)
    if isinstance(settings, RemoveSettings | RemovePacksSettings | ResultRemoveSettings) and not settings.yes:
        _confirm_removal(settings)
    if _stores(command):
        _check_store(settings.home, command.schema)


def _stores(command: Command) -> bool:
    return command.stored and command.result is not None


def _check_processes(command: Command, settings: Settings) -> None:
    """Check that several processes of torchrun can run the command together."""
    if distributed.started() == 1:
        return
    if isinstance(settings, ClusterSettings) and settings.cluster is not None:
        raise UsageError("--cluster and torchrun both start processes", hint="leave one of them out")
    if not command.distributed:
        others = " and ".join(f"`{other.name}`" for other in COMMANDS if other.distributed)
        raise UsageError(
            f"`nilr {command.name}` runs in one process, and torchrun started {distributed.started()}",
            hint=f"start it without torchrun, which runs {others} only",
        )


def _check_working_directory() -> None:
    try:
        os.getcwd()  # noqa: PTH109 - only whether there is one
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise StoreError(f"cannot use the working directory: {reason}", hint="change to one that exists") from error


def _confirm_removal(settings: RemoveSettings | RemovePacksSettings | ResultRemoveSettings) -> None:
    """Ask on the terminal whether to remove models, packs or results that exist.

    Raises:
        UsageError: there is no terminal.
        NilrError: the answer is not yes.
    """
    from nilr.store import Store

    store = Store(settings.home)
    if isinstance(settings, ResultRemoveSettings):
        listed = [file.stem for file in store.find_results(map(str, settings.results))]
    else:
        of_models = isinstance(settings, RemoveSettings)
        listed = list(settings.models if isinstance(settings, RemoveSettings) else settings.packs)
        for name in listed:
            store.require_model(name) if of_models else store.require_pack(name)
    if not listed:
        return
    names = some([f"`{name}`" for name in dict.fromkeys(listed)], 20)
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"removing {names} needs a confirmation, but there is no terminal", hint="add --yes")
    typer.echo(f"remove {names}? [y/N] ", err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise NilrError("not confirmed; nothing was removed")


def _check_store(home: Path | None, schema: str) -> None:
    """Check before the work that the store can take the result."""
    from nilr.store import Store

    path = Store(home).result_path(schema)
    check_writable(next(parent for parent in path.parents if parent.exists()), path)


def _store(home: Path | None, result: Result[Any]) -> Path:
    from nilr.store import Store

    path = Store(home).result_path(result.command, result.question)
    write_result(path, result)
    return path


def _copy(file: str | None, returned: Any) -> None:  # noqa: ANN401 - a result, or a list of records
    if file is None:
        return
    content = (to_json(returned) if isinstance(returned, Result) else _rows_json(returned)).encode()
    _write(file, content)


def _write(file: str, content: bytes) -> None:
    if file in STANDARD_OUTPUT:
        typer.echo(content)
    else:
        write_output(Path(file), content + b"\n")


def _rows_json(rows: list[Record]) -> str:
    """Return the rows of a list as JSON; a row that is a result has the layout of its own file."""
    return f"[{', '.join(to_json(row) if isinstance(row, Result) else row.model_dump_json(indent=1) for row in rows)}]"
