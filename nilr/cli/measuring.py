"""What every measuring command does around its recipe: progress, the result's copies, the table, the last words."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from nilr.cli.options import Invocation
from nilr.config import Settings
from nilr.errors import Interrupted, StoreError
from nilr.files import led_to, storage_error
from nilr.signals import ending_the_process

STANDARD_OUTPUT = ("-", "/dev/stdout")

_SHOW = {"demo": "probe"}
_RECIPES = {"models-import": "nilr.recipes.models.importing"}

# Their recipes store what they measure, perhaps in a home of its own.
_STORES_ITSELF = ("demo", "reproduce")


def body(name: str) -> Callable[[Any, Invocation], None]:
    """Return what the command `name` does with its settings.

    The recipe, and torch with it, is imported when the command runs: asking for help must not wait for it.
    """

    def run(settings: Settings, invocation: Invocation) -> None:
        _check_destination(invocation.json)
        if name not in _STORES_ITSELF:
            _check_store(settings.home, name)
        with ending_the_process():
            from nilr.cli.console import Screen, make_console
            from nilr.cli.progress import reporting

            show = importlib.import_module(f"nilr.cli.show.{_SHOW.get(name) or name.replace('-', '_')}").show
            recipe = importlib.import_module(_RECIPES.get(name) or f"nilr.recipes.{name.replace('-', '_')}")
        console = make_console(sys.stderr)
        with _saying_how_to_go_on():
            with reporting(console, quiet=invocation.quiet) as reporter:
                result = recipe.run(settings, reporter)
            try:
                _copy(invocation.json, result)
            finally:
                stored = None if name in _STORES_ITSELF else _store(settings.home, result)
        screen = Screen(console, quiet=invocation.quiet)
        show(result, screen)
        if stored is not None:
            screen.line(f"result: {stored}")
        for note in result.notes:
            screen.line(note)

    return run


@contextlib.contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except Interrupted as interrupted:
        hint = interrupted.hint or "no result was stored; the same command begins anew"
        raise Interrupted(interrupted.signum, hint=hint) from None


def _check_destination(json: str | None) -> None:
    """Refuse before the work what cannot be written after it."""
    if json is not None and json not in STANDARD_OUTPUT and Path(json).is_dir():
        raise StoreError(f"cannot write `{json}`: it is a directory", hint="give --json the name of a file")


def _check_store(home: Path | None, command: str) -> None:
    """Refuse before the work a store that cannot take its result."""
    from nilr.store import Store

    path = Store(home).result_path(command)
    place = next(parent for parent in path.parents if parent.exists())
    if not place.is_dir():
        raise storage_error(path, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if not os.access(place, os.W_OK):
        reason = errno.EROFS if os.statvfs(place).f_flag & os.ST_RDONLY else errno.EACCES
        raise storage_error(path, OSError(reason, os.strerror(reason)))


def _store(home: Path | None, result: Any) -> Path:  # noqa: ANN401 - a Result of any metrics
    from nilr.results.result import write_result
    from nilr.store import Store

    path = Store(home).result_path(result.command)
    write_result(path, result)
    return path


def _copy(json: str | None, result: Any) -> None:  # noqa: ANN401 - a Result of any metrics
    from nilr.results.result import to_json, write_result

    if json is None:
        return
    path = Path(json)
    if json in STANDARD_OUTPUT:
        typer.echo(to_json(result).encode())
    elif path.exists() and not path.is_file():
        # A pipe or a device is written to; a rename would put a file in its place.
        try:
            path.write_text(to_json(result) + "\n", encoding="utf-8")
        except BrokenPipeError:
            raise
        except OSError as error:
            raise storage_error(path, error) from error
    else:
        write_result(led_to(path), result)
