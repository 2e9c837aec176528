"""How the command line runs one command: recipe, progress, copies of the result, and what the screen shows."""

from __future__ import annotations

import errno
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

import typer

from nilr.cli.options import Invocation
from nilr.commands import Command
from nilr.config.base import Settings
from nilr.errors import Interrupted, StoreError
from nilr.files import resolve_links, storage_error
from nilr.results.result import Result, to_json, write_result
from nilr.signals import ending_the_process

STANDARD_OUTPUT = ("-", "/dev/stdout")


def run_command(command: Command, settings: Settings, invocation: Invocation) -> None:
    """Run a command, store and copy its result, and show it.

    Recipe and display are imported here: help must not wait for torch.
    """
    _check_destination(invocation.json)
    if command.stored:
        _check_store(settings.home, command.schema)
    with ending_the_process():
        from nilr.cli.console import Screen, make_console
        from nilr.cli.progress import make_reporter

        recipe, show = pkgutil.resolve_name(command.recipe), pkgutil.resolve_name(command.show)
    console, stored = make_console(sys.stderr), None
    screen = Screen(console, quiet=invocation.quiet)
    try:
        with make_reporter(console, quiet=invocation.quiet) as reporter:
            returned = recipe(settings, reporter)
        try:
            _copy(invocation.json, returned)
        finally:
            if command.stored:
                stored = _store(settings.home, returned)
    except Interrupted as interrupted:
        if command.result is None or interrupted.hint:
            raise
        hint = "no result was stored; to start again, repeat the command"
        raise Interrupted(interrupted.signum, hint=hint) from None
    show(returned, screen)
    if stored is not None:
        screen.line(f"result: {stored}")
    for note in returned.notes if command.result else ():
        screen.line(note)


def _check_destination(json: str | None) -> None:
    """Check before the work that `--json` is not a directory."""
    if json is not None and json not in STANDARD_OUTPUT and Path(json).is_dir():
        raise StoreError(f"cannot write `{json}`: it is a directory", hint="give --json the name of a file")


def _check_store(home: Path | None, schema: str) -> None:
    """Check before the work that the store can take the result."""
    from nilr.store import Store

    path = Store(home).result_path(schema)
    place = next(parent for parent in path.parents if parent.exists())
    if not place.is_dir():
        raise storage_error(path, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if not os.access(place, os.W_OK):
        reason = errno.EROFS if os.statvfs(place).f_flag & os.ST_RDONLY else errno.EACCES
        raise storage_error(path, OSError(reason, os.strerror(reason)))


def _store(home: Path | None, result: Result[Any]) -> Path:
    from nilr.store import Store

    path = Store(home).result_path(result.command)
    write_result(path, result)
    return path


def _copy(json: str | None, result: Result[Any]) -> None:
    if json is None:
        return
    path = Path(json)
    if json in STANDARD_OUTPUT:
        typer.echo(to_json(result).encode())
    elif path.exists() and not path.is_file():
        # A pipe or a device: renaming a file would replace it.
        try:
            path.write_text(to_json(result) + "\n", encoding="utf-8")
        except BrokenPipeError:
            raise
        except OSError as error:
            raise storage_error(path, error) from error
    else:
        write_result(resolve_links(path), result)
