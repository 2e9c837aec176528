"""Progress on stderr: a live bar on a terminal, a plain line at a steady interval elsewhere, nothing when quiet."""

import contextlib
import math
import threading
import time

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from nilr.cli.stage import Clock, Stage
from nilr.reporting import Reporter, SilentReporter
from nilr.signals import DeferringSignals
from nilr.words import fill, printable

INTERVAL = 10.0

_BAR_WIDTH, _LINE_WIDTH = 16, 56
_SECONDS_BETWEEN_FRAMES = 0.25


def make_reporter(console: Console, *, quiet: bool) -> Reporter:
    """Return the reporter for `--quiet`, a terminal or a log."""
    if quiet:
        return SilentReporter()
    live = console.is_terminal and not console.is_dumb_terminal
    return TerminalReporter(console) if live else PlainReporter(console)


class TerminalReporter(Reporter):
    """Draws the current stage at the bottom of a terminal; notes and ended stages stay above it."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._stage: Stage | None = None
        self._drawn: list[int] = []  # widths of the lines that can be erased
        self._frame = ""
        self._lock, self._ended = threading.Lock(), threading.Event()
        self.noted: set[str] = set()
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

    def expect(self, seconds: float | None, share: float | None = None) -> None:
        """Take the time left; the next frame shows it."""
        if self._stage is not None:
            self._stage.expect(seconds, share)

    def metric(self, **values: float | None) -> None:
        """Take the newest values; the next frame shows them."""
        if self._stage is not None:
            self._stage.update(values)

    def note(self, message: str) -> None:
        """Print the message above the stage."""
        self.noted.add(message)
        self._draw(Text(fill(printable(message), self._console.width)))

    def _animate(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone; the main thread will notice
            while not self._ended.wait(_SECONDS_BETWEEN_FRAMES):
                self._draw()

    def _end_stage(self) -> None:
        stage, self._stage = self._stage, None
        if stage is not None:
            texts = [*stage.counts(), *stage.times(ended=True), *stage.values()]
            lines = [self._title(stage, [])]
            for i, text in enumerate(texts, start=1):
                text += "," if i < len(texts) else ""
                if lines[-1].cell_len + cell_len(text) >= self._console.width:
                    lines.append(Text(" "))
                lines[-1].append(f" {text}")
            self._draw(Text("\n").join(lines))

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
        for texts in (stage.times(ended=False), stage.values()):
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
        self.noted: set[str] = set()

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

    def expect(self, seconds: float | None, share: float | None = None) -> None:
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
        self.noted.add(message)
        self._console.print(Text(printable(message)), soft_wrap=True)

    def _print_if_due(self, stage: Stage) -> None:
        if self._clock() - self._printed_at >= self._interval:
            self._print(stage)

    def _print(self, stage: Stage, *, ended: bool = False) -> None:
        self._printed_at, self._printed_done = self._clock(), stage.done
        texts = [*stage.counts(), *stage.times(ended=ended), *stage.values()]
        self.note(f"{stage.title}: {', '.join(texts)}" if texts else stage.title)

    def _end_stage(self) -> None:
        if self._stage is not None and self._printed_done != self._stage.done:
            self._print(self._stage, ended=True)
        self._stage = None
