"""The one place where exceptions become a line on stderr and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from nilr.cli.app import build_app
from nilr.cli.console import printable
from nilr.cli.options import Invocation
from nilr.cli.usage import from_typer
from nilr.errors import Interrupted, NilrError, StoreError
from nilr.files import storage_error
from nilr.signals import unwinding

BROKEN_PIPE = 128 + 13
_LONGEST_LINE = 4000
_NOT_WRITTEN = (errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)
# Of torch's own allocator for the CPU, and of the loader of its libraries.
_NO_MEMORY = ("can't allocate memory", "failed to map segment")


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit status.

    0 done; 1 what depends on the world; 2 what makes no sense anywhere; 128 + N after signal N.
    """
    invocation = Invocation()
    try:
        with unwinding():
            status = _invoke(args, invocation)
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except SystemExit as leave:
        # rich leaves so where a pipe is broken.
        if not isinstance(leave.__context__, BrokenPipeError):
            raise
        _discard_output()
        return BROKEN_PIPE
    except (Exception, KeyboardInterrupt) as error:
        with contextlib.suppress(BrokenPipeError):
            if invocation.debug:
                traceback.print_exc()
            status = _report(error)
            try:
                sys.stdout.flush()
            except OSError:  # which is what went wrong
                _discard_output()
            return status
        _discard_output()
        return BROKEN_PIPE
    return status


def _invoke(args: Sequence[str], invocation: Invocation) -> int:
    # Not Typer's own main(): it would turn every KeyboardInterrupt, and so Interrupted, into a silent status.
    command = typer.main.get_command(build_app())
    try:
        with command.make_context("nilr", list(args) or ["--help"], obj=invocation) as ctx:
            command.invoke(ctx)
    except typer.Exit as leave:
        return leave.exit_code
    except typer.TyperException as error:
        raise from_typer(error) from error
    return 0


def _report(error: BaseException) -> int:
    """Say what went wrong, in one line and a hint, and return the exit status."""
    if isinstance(error, KeyboardInterrupt):
        signum = error.signum if isinstance(error, Interrupted) else signal.SIGINT
        hint = error.hint if isinstance(error, Interrupted) else None
        _say(f"interrupted by {signal.Signals(signum).name}", hint)
        return 128 + signum
    known = _known(error)
    if known is None:
        _say(
            f"internal: {type(error).__name__}: {error}",
            "run it again with --debug to see where; this is a fault in nilr",
        )
        return 1
    _say(known.message, known.hint)
    return known.exit_status


def _known(error: BaseException) -> NilrError | None:
    if isinstance(error, NilrError):
        return error
    said = str(error)
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in said for words in _NO_MEMORY)
    ):
        return NilrError("out of memory", hint="close other programs, or take smaller images, episodes or batches")
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None and error.errno in _NOT_WRITTEN:  # files are named
            return StoreError(f"cannot write to standard output: {error.strerror.lower()}", hint="send it elsewhere")
        return storage_error(Path(error.filename or "."), error, "use")
    return None


def _say(message: str, hint: str | None) -> None:
    lines = [f"{kind}: {_cut(printable(text))}" for kind, text in (("error", message), ("hint", hint)) if text]
    typer.echo("\n".join(lines), err=True)


def _cut(line: str) -> str:
    # A file may hold names of any length.
    rest = len(line) - _LONGEST_LINE
    return line if rest <= 0 else f"{line[:_LONGEST_LINE]}... and {rest:,} characters more"


def _discard_output() -> None:
    """Point both streams at nothing, so that the interpreter's last flush does not complain."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nothing, stream.fileno())
