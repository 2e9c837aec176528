"""The file of `--log-file`: what a command reports, with the times, also with `--quiet`."""

import contextlib
import io
import shlex
from pathlib import Path
from typing import IO, cast

from rich.console import Console
from typing_extensions import override

from nilr import distributed
from nilr.cli.destinations import checked_destination
from nilr.cli.parsing import Invocation
from nilr.cli.progress import PlainReporter
from nilr.files import storage_error
from nilr.reporting import Reporter
from nilr.words import printable, utc_now

_WIDTH = 10_000  # columns, so that no line is broken


def write_log(invocation: Invocation, *lines: str) -> None:
    """Append lines to the log, if there is one."""
    if invocation.log_file is not None:
        _Lines(Path(invocation.log_file)).write("\n".join(map(printable, lines)))


def open_log(invocation: Invocation) -> None:
    """Check before the work that the log can be written, and log the command line.

    Of several processes, only the first one has a log. After an error there is none.

    Raises:
        StoreError: it cannot be written.
    """
    file, invocation.log_file, invocation.log_checked = invocation.log_file, None, True
    if file is None or not distributed.prints():
        return
    file = checked_destination(file, "--log-file", others=(invocation.json, invocation.save_config), regular=True)
    try:
        Path(file).open("a").close()
    except OSError as error:
        raise storage_error(Path(file), error, flag="--log-file") from error
    invocation.log_file = file
    write_log(invocation, shlex.join(["nilr", *invocation.words]))


def logging(invocation: Invocation, shown: Reporter) -> Reporter:
    """Return a reporter that writes to the log, if there is one, what another one shows."""
    if invocation.log_file is None:
        return shown
    lines = _Lines(Path(invocation.log_file))
    return _Both(shown, PlainReporter(Console(file=cast(IO[str], lines), width=_WIDTH, no_color=True)))


class _Lines(io.TextIOBase):
    """Appends lines to a file, each after its UTC time. A full disk loses lines, but never ends the command."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def write(self, text: str) -> int:
        if self._path.exists() and not self._path.is_file():  # opening a pipe would wait for its reader
            return len(text)
        time = utc_now()[:19]
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(f"{time}Z {line}\n" for line in text.splitlines()))
        return len(text)


class _Both(Reporter):
    def __init__(self, shown: Reporter, logged: Reporter) -> None:
        self._both = (shown, logged)
        self.noted, self.files = shown.noted, shown.files

    @override
    def __enter__(self) -> "_Both":
        for reporter in self._both:
            reporter.__enter__()
        return self

    @override
    def __exit__(self, *error: object) -> None:
        for reporter in self._both:
            reporter.__exit__(*error)

    @override
    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        for reporter in self._both:
            reporter.stage(title, total, done=done, unit=unit)

    @override
    def advance(self, n: int = 1) -> None:
        for reporter in self._both:
            reporter.advance(n)

    @override
    def expect(self, seconds: float | None, share: float | None = None) -> None:
        for reporter in self._both:
            reporter.expect(seconds, share)

    @override
    def metric(self, **values: float | None) -> None:
        for reporter in self._both:
            reporter.metric(**values)

    @override
    def note(self, message: str) -> None:
        for reporter in self._both:
            reporter.note(message)
