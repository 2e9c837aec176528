"""Progress on stderr: a live bar on a terminal, a plain line at a steady interval elsewhere, nothing when quiet."""

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from nilr.cli.console import duration, printable, share
from nilr.reporting import Reporter, SilentReporter
from nilr.words import number

INTERVAL = 10.0

_FRACTIONS = ("accuracy", "share", "validation")


def make_reporter(console: Console, *, quiet: bool) -> Reporter:
    """Return the reporter for `--quiet`, a terminal or a log."""
    if quiet:
        return SilentReporter()
    live = console.is_terminal and not console.is_dumb_terminal
    return TerminalReporter(console) if live else PlainReporter(console)


class TerminalReporter(Reporter):
    """Draws one bar per stage, with rate and time left, and the newest values below it."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[count]}", markup=False),
            _RateColumn(),
            TimeRemainingColumn(compact=True),
        )
        self._values = Text()
        self._live = Live(Group(self._progress, self._values), console=console, refresh_per_second=4)
        self._task: TaskID | None = None
        self._metrics: dict[str, float] = {}
        self._unit = ""

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Draw a new bar."""
        self._live.start()
        if self._task is not None:
            self._progress.stop_task(self._task)
        self._metrics, self._unit = {}, unit
        self._values.plain = ""
        self._task = self._progress.add_task(
            printable(title), total=total, completed=done, count=_count(done, total, unit)
        )

    def advance(self, n: int = 1) -> None:
        """Advance the bar."""
        if self._task is None:
            return
        task = self._progress.tasks[self._task]
        self._progress.update(self._task, advance=n, count=_count(int(task.completed) + n, task.total, self._unit))

    def metric(self, **values: float | None) -> None:
        """Show the newest values under the bar."""
        self._metrics = _updated(self._metrics, values)
        self._values.plain = _text(self._metrics, percent=True)

    def note(self, message: str) -> None:
        """Print the message above the bars."""
        self._live.console.print(Text(printable(message)), soft_wrap=True)


class PlainReporter(Reporter):
    """Prints a line when a stage starts and ends, and every `interval` seconds in between, for logs."""

    def __init__(
        self, console: Console, clock: Callable[[], float] = time.monotonic, interval: float = INTERVAL
    ) -> None:
        self._console, self._clock, self._interval = console, clock, interval
        self._title: str | None = None
        self._total: int | None = None
        self._unit = ""
        self._first = self._done = self._printed = 0
        self._start = self._last_line = 0.0
        self._metrics: dict[str, float] = {}

    def __exit__(self, *_: object) -> None:
        self._end_stage()

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Print the last state of the previous stage, and the title of the new one."""
        self._end_stage()
        self._title, self._total, self._unit = title, total, unit
        self._first = self._done = done
        self._start, self._metrics = self._clock(), {}
        self._print_state()

    def advance(self, n: int = 1) -> None:
        """Count, and print the state if the interval has passed."""
        self._done += n
        self.metric()

    def metric(self, **values: float | None) -> None:
        """Keep the newest values, and print the state if the interval has passed."""
        self._metrics = _updated(self._metrics, values)
        if self._title is not None and self._clock() - self._last_line >= self._interval:
            self._print_state()

    def note(self, message: str) -> None:
        """Print the message."""
        self._console.print(Text(printable(message)), soft_wrap=True)

    def _print_state(self) -> None:
        self._last_line, self._printed = self._clock(), self._done
        state = ": ".join(filter(None, (self._title, _count(self._done, self._total, self._unit))))
        self.note(", ".join(filter(None, (state, *self._pace(), _text(self._metrics, percent=False)))))

    def _pace(self) -> list[str]:
        elapsed, completed = self._clock() - self._start, self._done - self._first
        if elapsed <= 0 or completed <= 0:
            return []
        rate = completed / elapsed
        unfinished = self._total is not None and self._done < self._total
        left = f"{duration((self._total - self._done) / rate)} left" if self._total and unfinished else None
        return [f"{number(rate)} {self._unit}/s", left or f"in {duration(elapsed)}"]

    def _end_stage(self) -> None:
        if self._title is not None and self._printed != self._done:
            self._print_state()
        self._title = None


class _RateColumn(ProgressColumn):
    """Units per second, over the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{number(speed)}/s" if speed else "")


def _updated(metrics: dict[str, float], values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in {**metrics, **values}.items() if value is not None}


def _text(metrics: dict[str, float], *, percent: bool) -> str:
    def formatted(name: str, value: float) -> str:
        return share(value, percent=percent) if any(part in name for part in _FRACTIONS) else number(value)

    return ", ".join(f"{name} {formatted(name, value)}" for name, value in metrics.items())


def _count(done: int, total: float | None, unit: str) -> str:
    if total is None and done == 0:
        return ""  # not counted
    shown, last = (f"{done}", done) if total is None else (f"{done}/{total:.0f}", total)
    return f"{shown} {unit.removesuffix('s') if last == 1 else unit}"
