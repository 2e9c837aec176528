"""Convert exceptions into a message on stderr and an exit status, in this one place."""

import contextlib
import errno
import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import typer

from nilr import distributed
from nilr.cli.app import build_command
from nilr.cli.completion import COMPLETE, complete
from nilr.cli.parsing import Invocation, given_value, source_of
from nilr.errors import (
    Interrupted,
    NilrError,
    StoreError,
    UsageError,
    did_you_mean,
    invalid_value,
    is_out_of_memory,
)
from nilr.files import storage_error
from nilr.signals import ignore_repeated_signals, unwinding
from nilr.words import counted, fill, lower_first, printable

BROKEN_PIPE = 128 + 13
_LONGEST_LINE = 4000
_WRITE_ERRORS = (errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)


def run(args: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        The exit status: 0 success; 1 an error that depends on files, data or the machine; 2 an invalid command line;
        128 + N after signal N.
    """
    invocation = Invocation(words=args)
    if not distributed.prints():
        _discard_output(sys.stdout)
    if distributed.started() > 1:
        ignore_repeated_signals()  # torchrun, a scheduler and a terminal may all send one
    try:
        return _run_and_report(args, invocation)
    except BrokenPipeError:
        pass
    except SystemExit as leave:
        # rich exits if its pipe is broken.
        if not isinstance(leave.__context__, BrokenPipeError):
            raise
    _discard_output()
    return BROKEN_PIPE


def _run_and_report(args: Sequence[str], invocation: Invocation) -> int:
    try:
        with unwinding():
            status = _invoke(args, invocation)
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if invocation.debug:
            import traceback

            traceback.print_exc()
        status = _report(error, invocation)
        try:
            sys.stdout.flush()
        except OSError:  # already reported
            _discard_output()
    return status


def _invoke(args: Sequence[str], invocation: Invocation) -> int:
    # Typer's own main() would turn KeyboardInterrupt, and so Interrupted, into a status without a message.
    if COMPLETE in os.environ:  # a shell calls
        complete()
    command = build_command()
    try:
        with command.make_context("nilr", list(args) or ["--help"], obj=invocation) as ctx:
            command.invoke(ctx)
    except typer.Exit as leave:
        return leave.exit_code
    except typer.TyperException as error:
        raise _from_typer(error) from error
    return 0


def _from_typer(error: typer.TyperException) -> UsageError:
    """Return the error for a command line that Typer rejects.

    Typer does not export the subclasses of its exception; their attributes are read by name.
    """
    ctx = getattr(error, "ctx", None)
    hint = f"see `{ctx.command_path} --help`" if ctx else "see `nilr --help`"
    from pydantic import ValidationError

    parameter, cause = getattr(error, "param", None), error.__cause__
    if parameter is not None and isinstance(cause, ValidationError):
        details = cause.errors()[0]
        choices = getattr(getattr(parameter, "type_descriptor", None), "choices", None) or ()
        return invalid_value(
            source_of(parameter, ctx), details, did_you_mean(str(details["input"]), map(str, choices)) + hint
        )
    commands = getattr(getattr(ctx, "command", None), "commands", None)
    if commands and not hasattr(error, "option_name"):
        hint = f"known: {', '.join(commands)}"
    possible = getattr(error, "possibilities", None) or ()
    hint = did_you_mean(getattr(error, "option_name", ""), possible) + hint
    message = " ".join(getattr(error, "message", str(error)).replace("'", "`").split())
    message = re.sub(r"argument\(s\) \((\S+)\)$", r"argument (\1)", message).replace("argument(s)", "arguments")
    return UsageError(lower_first(message), hint=hint)


def _report(error: BaseException, invocation: Invocation) -> int:
    """Print what went wrong, in one line and a hint, also to a log; return the exit status."""
    message, hint, status = _described(error)
    if distributed.reports(error):
        _print_error(message, hint)
        _log_error(message, hint, invocation)
    return status


def _log_error(message: str, hint: str | None, invocation: Invocation) -> None:
    """Write an error to the log, if there is one, also if the command line is invalid."""
    words = invocation.words
    if not invocation.log_checked and (file := given_value(words, "--log-file")) is not None:
        from nilr.cli.log_file import open_log

        invocation.log_file = file
        invocation.json, invocation.save_config = given_value(words, "--json"), given_value(words, "--save-config")
        with contextlib.suppress(NilrError, OSError):
            open_log(invocation)
    if invocation.log_file is not None:
        from nilr.cli.log_file import write_log

        write_log(invocation, f"error: {message}", *([f"hint: {hint}"] if hint else []))


def _described(error: BaseException) -> tuple[str, str | None, int]:
    """Return the message, the hint and the exit status of an error."""
    if isinstance(error, KeyboardInterrupt):
        signum, hint = (error.signum, error.hint) if isinstance(error, Interrupted) else (signal.SIGINT, None)
        return f"interrupted by {signal.Signals(signum).name}", hint, 128 + signum
    expected = _expected(error)
    if expected is None:
        hint = "this is a bug in nilr; run the command again with --debug for the traceback"
        return f"internal: {type(error).__name__}: {error}", hint, 1
    return expected.message, expected.hint, expected.exit_status


def _expected(error: BaseException) -> NilrError | None:
    """Return an error that a user can act on; None if `error` is a bug."""
    if isinstance(error, NilrError):
        return error
    if is_out_of_memory(error):
        return NilrError("out of memory", hint="close other programs, or use smaller images, episodes or batches")
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None and error.errno in _WRITE_ERRORS:  # file errors have a filename
            hint = "redirect the output elsewhere"
            return StoreError(f"cannot write to standard output: {error.strerror.lower()}", hint=hint)
        return storage_error(Path(error.filename or "."), error, "use")
    return None


def _print_error(message: str, hint: str | None) -> None:
    lines = []
    for kind, text in (("error", message), ("hint", hint)):
        line = printable(text or "")
        if len(line) > _LONGEST_LINE:  # a file may contain names of any length
            line = f"{line[:_LONGEST_LINE]}... and {counted(len(line) - _LONGEST_LINE, 'more character')}"
        if line:
            line = f"{kind}: {line}"
            lines.append(f"{fill(line, shutil.get_terminal_size().columns) if sys.stderr.isatty() else line}\n")
    typer.echo("".join(lines), err=True, nl=False)  # one write, so that no other process writes between them


def _discard_output(*streams: TextIO) -> None:
    """Redirect streams, both by default, to the null device, so that Python's last flush reports no error."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in streams or (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(null, stream.fileno())
