"""Progress on stderr: a live bar on a terminal, a plain line at a steady interval elsewhere, nothing when quiet."""

import contextlib
import math
import threading
import time
from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from nilr.cli.console import duration, printable, share
from nilr.reporting import Pace, Reporter, SilentReporter
from nilr.signals import DeferringSignals
from nilr.words import number

INTERVAL = 10.0

_FRACTIONS = ("accuracy", "share", "validation")
_BAR_WIDTH, _LINE_WIDTH = 16, 56
_SECONDS_BETWEEN_FRAMES = 0.25
# The time left is shown once the estimate has been steady for this long, to within this share of it.
_STEADY_SECONDS, _STEADY_SHARE = 5.0, 0.2
# It is withdrawn if the estimate is larger by this factor and these seconds.
_WITHDRAW_FACTOR, _WITHDRAW_SECONDS = 1.5, 10.0

Clock = Callable[[], float]


def make_reporter(console: Console, *, quiet: bool) -> Reporter:
    """Return the reporter for `--quiet`, a terminal or a log."""
    if quiet:
        return SilentReporter()
    live = console.is_terminal and not console.is_dumb_terminal
    return TerminalReporter(console) if live else PlainReporter(console)


class Countdown:
    """The time left as it is shown: it follows the estimate without jumping, and is withdrawn if it was far too low."""

    def __init__(self, now: float) -> None:
        self._now = self._steady_since = now
        self._end: float | None = None  # as estimated
        self._steady_end: float | None = None  # as estimated when it became steady
        self._shown: float | None = None

    def expect(self, now: float, seconds: float) -> None:
        """Take a new estimate."""
        self._end = now + seconds
        self.left(now)

    def left(self, now: float) -> float | None:
        """Return the seconds left; None if no estimate is reliable."""
        elapsed, self._now = now - self._now, now
        if self._end is None:
            return None
        estimate = max(0.0, self._end - now)
        if self._shown is None:
            if self._steady_end is None:
                self._steady_end = self._end
            elif abs(self._end - self._steady_end) > _STEADY_SHARE * estimate:
                self._steady_end, self._steady_since = self._end, now
            if now - self._steady_since >= _STEADY_SECONDS and estimate:
                self._shown = estimate
        else:
            # At this speed both reach zero at the same time; an estimate that has become smaller is approached.
            speed = min(1.0, self._shown / estimate) if estimate else 1.0
            self._shown -= speed * elapsed
            self._shown -= max(0.0, self._shown - estimate) * (1 - math.exp(-elapsed / _STEADY_SECONDS))
            if self._shown < 1 or estimate > _WITHDRAW_FACTOR * self._shown + _WITHDRAW_SECONDS:
                self._shown, self._steady_end, self._steady_since = None, self._end, now
        return self._shown


class Stage:
    """What is shown of a stage: title, count, pace, times and the newest values."""

    def __init__(self, title: str, total: int | None, done: int, unit: str, clock: Clock) -> None:
        self.title, self.done, self._first = title, done, done
        self._total, self._unit, self._clock = total, unit, clock
        self._start = self._last = clock()
        self._pace, self._countdown = Pace(), Countdown(self._start)
        self._share: float | None = None
        self._expected = False  # whether the recipe estimates the time left
        self._metrics: dict[str, float] = {}

    @property
    def share(self) -> float | None:
        """The share of the work that is done; None if the total is unknown."""
        return self.done / self._total if self._share is None and self._total else self._share

    def advance(self, n: int) -> None:
        """Count completed units."""
        now = self._clock()
        self._pace.add(n, now - self._last)
        self.done, self._last = self.done + n, now
        if self._total is not None and not self._expected:
            self._countdown.expect(now, self._pace.seconds(self._total - self.done))

    def expect(self, seconds: float, share: float | None) -> None:
        """Take the recipe's own estimate of the time left."""
        self._expected, self._share = True, share
        self._countdown.expect(self._clock(), seconds)

    def update(self, values: dict[str, float | None]) -> None:
        """Keep the newest values."""
        merged = {**self._metrics, **values}
        self._metrics = {name: value for name, value in merged.items() if value is not None}

    def counts(self) -> list[str]:
        """Return the count and the share of the work."""
        share = [] if self._share is None else [f"{100 * self._share:.0f} %"]
        return [*_count(self.done, self._total, self._unit), *share]

    def times(self, *, ended: bool) -> list[str]:
        """Return the pace, and the time passed and left."""
        elapsed, completed, texts = self._clock() - self._start, self.done - self._first, []
        if self._share is None and completed and elapsed > 0:
            rate = completed / elapsed if ended else 1 / (self._pace.seconds(1) or elapsed)
            texts.append(f"{number(rate, 3)} {self._unit}/s")
        if ended:
            return [*texts, f"in {duration(elapsed)}"] if completed and elapsed > 0 else texts
        left = self._countdown.left(self._clock())
        if elapsed >= 1:
            texts.append(f"{duration(elapsed)} elapsed")
        return texts if left is None else [*texts, f"{duration(left)} left"]

    def values(self, *, percent: bool) -> list[str]:
        """Return the newest values."""
        return [_value(name, value, percent=percent) for name, value in self._metrics.items()]


class TerminalReporter(Reporter):
    """Draws the current stage at the bottom of a terminal; notes and ended stages stay above it."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._stage: Stage | None = None
        self._drawn: list[int] = []  # widths of the lines that can be erased
        self._frame = ""
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._animate, daemon=True)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._end_stage()

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Draw another stage."""
        self._end_stage()
        self._stage = Stage(printable(title), total, done, unit, self._clock)
        self._draw()
        if not self._thread.is_alive():
            self._thread.start()

    def advance(self, n: int = 1) -> None:
        """Count; the next frame shows it."""
        if self._stage is not None:
            self._stage.advance(n)

    def expect(self, seconds: float, share: float | None = None) -> None:
        """Take the time left; the next frame shows it."""
        if self._stage is not None:
            self._stage.expect(seconds, share)

    def metric(self, **values: float | None) -> None:
        """Take the newest values; the next frame shows them."""
        if self._stage is not None:
            self._stage.update(values)

    def note(self, message: str) -> None:
        """Print the message above the stage."""
        self._draw(Text(printable(message)))

    def _animate(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone; the main thread will notice
            while not self._ended.wait(_SECONDS_BETWEEN_FRAMES):
                self._draw()

    def _end_stage(self) -> None:
        stage, self._stage = self._stage, None
        if stage is not None:
            texts = [*stage.counts(), *stage.times(ended=True), *stage.values(percent=True)]
            self._draw(self._title(stage, texts))

    def _title(self, stage: Stage, texts: list[str]) -> Text:
        """Return a stage's title and bar with texts."""
        bar = Text()
        if stage.share is not None:
            full, rest = "=-" if self._console.options.ascii_only else "━─"
            n = int(_BAR_WIDTH * min(1.0, stage.share))
            bar = Text.assemble(" ", (full * n, "cyan"), (rest * (_BAR_WIDTH - n), "bright_black"))
        return Text.assemble(stage.title, bar, " " if texts else "", ", ".join(texts))

    def _lines(self, stage: Stage) -> list[Text]:
        """Return the lines of a frame, short enough to survive a narrower terminal unwrapped."""
        lines = [self._title(stage, stage.counts())]
        for texts in (stage.times(ended=False), stage.values(percent=True)):
            line = ""
            for text in texts:
                if line and cell_len(f"{line}, {text}") > _LINE_WIDTH:
                    lines.append(Text(f"  {line},"))
                    line = ""
                line = f"{line}, {text}" if line else text
            lines += [Text(f"  {line}")] if line else []
        width, height = self._console.width - 1, self._console.height - 1
        return [part for line in lines for part in line.wrap(self._console, width)][:height]

    def _draw(self, above: Text | None = None) -> None:
        """Replace the last frame by a text that stays, if there is one, and a new frame."""
        with DeferringSignals(), self._lock:
            lines = [] if self._stage is None else self._lines(self._stage)
            frame = self._rendered(Text("\n").join(lines), end="")
            if above is None and frame == self._frame:
                return
            # A terminal that has become narrower has wrapped the lines of the last frame.
            rows = sum(max(1, math.ceil(drawn / self._console.width)) for drawn in self._drawn)
            erased = "\r\x1b[2K" + "\x1b[A\x1b[2K" * (rows - 1) if rows else ""
            stays = "" if above is None else self._rendered(above, end="\n")
            self._console.file.write(f"{erased}{stays}{frame}")
            self._console.file.flush()
            self._frame, self._drawn = frame, [line.cell_len for line in lines]

    def _rendered(self, text: Text, end: str) -> str:
        with self._console.capture() as capture:
            self._console.print(text, soft_wrap=True, end=end)
        return capture.get()


class PlainReporter(Reporter):
    """Prints a line when a stage starts and ends, and every `interval` seconds in between, for logs."""

    def __init__(self, console: Console, clock: Clock = time.monotonic, interval: float = INTERVAL) -> None:
        self._console, self._clock, self._interval = console, clock, interval
        self._stage: Stage | None = None
        self._printed_at, self._printed_done = 0.0, 0

    def __exit__(self, *_: object) -> None:
        self._end_stage()

    def stage(self, title: str, total: int | None = None, *, done: int = 0, unit: str = "steps") -> None:
        """Print the last state of the previous stage, and the title of the new one."""
        self._end_stage()
        self._stage = Stage(title, total, done, unit, self._clock)
        self._print(self._stage)

    def advance(self, n: int = 1) -> None:
        """Count, and print the state if the interval has passed."""
        if self._stage is not None:
            self._stage.advance(n)
            self._print_if_due(self._stage)

    def expect(self, seconds: float, share: float | None = None) -> None:
        """Take the time left, and print the state if the interval has passed."""
        if self._stage is not None:
            self._stage.expect(seconds, share)
            self._print_if_due(self._stage)

    def metric(self, **values: float | None) -> None:
        """Keep the newest values, and print the state if the interval has passed."""
        if self._stage is not None:
            self._stage.update(values)
            self._print_if_due(self._stage)

    def note(self, message: str) -> None:
        """Print the message."""
        self._console.print(Text(printable(message)), soft_wrap=True)

    def _print_if_due(self, stage: Stage) -> None:
        if self._clock() - self._printed_at >= self._interval:
            self._print(stage)

    def _print(self, stage: Stage, *, ended: bool = False) -> None:
        self._printed_at, self._printed_done = self._clock(), stage.done
        texts = [*stage.counts(), *stage.times(ended=ended), *stage.values(percent=False)]
        self.note(f"{stage.title}: {', '.join(texts)}" if texts else stage.title)

    def _end_stage(self) -> None:
        if self._stage is not None and self._printed_done != self._stage.done:
            self._print(self._stage, ended=True)
        self._stage = None


def _value(name: str, value: float, *, percent: bool) -> str:
    if name.endswith(" share"):  # of something that is being done
        return f"{name.removesuffix(' share')} {100 * value:.0f} %"
    return f"{name} {share(value, percent=percent) if any(part in name for part in _FRACTIONS) else number(value)}"


def _count(done: int, total: int | None, unit: str) -> list[str]:
    if total is None and done == 0:
        return []  # not counted
    shown, last = (f"{done}", done) if total is None else (f"{done}/{total}", total)
    return [f"{shown} {unit.removesuffix('s') if last == 1 else unit}"]
