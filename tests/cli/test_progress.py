from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from nilr.cli.console import make_console
from nilr.cli.progress import PlainReporter, TerminalReporter, make_reporter
from nilr.reporting import SilentReporter
from tests.cli.screens import Terminal


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(clock: Clock) -> tuple[io.StringIO, PlainReporter]:
    stream = io.StringIO()
    return stream, PlainReporter(make_console(stream), clock)


def test_a_log_gets_a_line_at_the_beginning_every_ten_seconds_and_at_the_end() -> None:
    clock = Clock()
    stream, reporter = plain(clock)
    with reporter:
        reporter.stage("probe", 100, unit="episodes")
        for _ in range(100):
            clock.now += 0.25
            reporter.advance()
    assert stream.getvalue().splitlines() == [
        "probe: 0/100 episodes",
        "probe: 40/100 episodes, 4 episodes/s, 10 s elapsed, 15 s left",
        "probe: 80/100 episodes, 4 episodes/s, 20 s elapsed, 5 s left",
        "probe: 100/100 episodes, 4 episodes/s, in 25 s",
    ]


def test_a_resumed_stage_counts_its_rate_from_where_it_began() -> None:
    clock = Clock()
    stream, reporter = plain(clock)
    with reporter:
        reporter.stage("meta-train", 1_000, done=500, unit="updates")
        clock.now = 10.0
        reporter.advance(20)
    assert stream.getvalue().splitlines()[-1].endswith(" 520/1000 updates, 2 updates/s, 10 s elapsed, 4 min 0 s left")


def test_fractions_in_a_log_are_percent_and_none_removes_one() -> None:
    clock = Clock()
    stream, reporter = plain(clock)
    with reporter:
        reporter.stage("meta-train", 2)
        reporter.metric(query_loss=1.61, accuracy_after=0.25, validation=0.5)
        reporter.metric(validation=None)
        reporter.advance()
    assert stream.getvalue().splitlines()[-1].endswith(", query loss 1.61, query accuracy after 25.00 %")


def test_metrics_alone_keep_a_log_alive() -> None:
    clock = Clock()
    stream, reporter = plain(clock)
    with reporter:
        reporter.stage("validate")
        clock.now = 11.0
        reporter.metric(validation=0.5)
    assert stream.getvalue().splitlines() == ["validate", "validate: 11 s elapsed, validation 50.00 %"]


def test_a_note_in_a_log_is_one_unchanged_line_of_any_length() -> None:
    stream, reporter = plain(Clock())
    reporter.note("[bold]" + "x" * 300 + "\x1b[2J")
    assert stream.getvalue() == "[bold]" + "x" * 300 + "\\x1b[2J\n"


def test_a_terminal_shows_count_metrics_in_percent_and_notes() -> None:
    stream = io.StringIO()
    with TerminalReporter(Console(file=stream, force_terminal=True, width=80)) as reporter:
        reporter.note("a [note]")
        reporter.stage("pack", unit="images")
        reporter.advance()
        reporter.stage("probe", 4, unit="episodes")
        reporter.advance(3)
        reporter.metric(accuracy=0.25)
    shown = stream.getvalue()
    assert "a [note]" in shown
    assert "3/4 episodes" in shown
    assert "accuracy 25.00 %" in shown
    assert "pack 1 image, " in shown


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_last_line_of_a_stage_breaks_between_its_parts(width: int) -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None)
    reporter = TerminalReporter(console, clock)
    reporter.stage("meta-train", 200, unit="updates")
    clock.now = 8.0
    reporter.advance(200)
    reporter.metric(query_loss=1.5, validation=0.5)
    reporter._end_stage()
    last = stream.getvalue().rpartition("\x1b[2K")[2].splitlines()
    assert max(map(len, last)) <= width
    words = re.sub(r"[━─]+ ", "", " ".join(line.strip() for line in last))
    assert words == "meta-train 200/200 updates, 25 updates/s, in 8 s, query loss 1.5, validation 50.00 %"
    parts = ("200/200 updates,", "25 updates/s,", "in 8 s,", "query loss 1.5,", "validation 50.00 %")
    assert all(sum(part in line for line in last) == 1 for part in parts)


@pytest.mark.parametrize("no_color", [True, False])
def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    monkeypatch.setenv("NO_COLOR", "1") if no_color else monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with make_reporter(make_console(stream), quiet=False) as reporter:
        reporter.stage("probe", 4)
        reporter.advance(4)
    shown = stream.getvalue()
    assert "4/4 steps" in shown
    assert ("\x1b[3" in shown or "\x1b[9" in shown) is not no_color


@pytest.mark.parametrize(
    ("stream", "term", "quiet", "kind"),
    [
        (Terminal(), "xterm", False, TerminalReporter),
        (Terminal(), "dumb", False, PlainReporter),
        (io.StringIO(), "xterm", False, PlainReporter),
        (Terminal(), "xterm", True, SilentReporter),
    ],
)
def test_the_reporter_suits_where_stderr_goes(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, term: str, quiet: bool, kind: type
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with make_reporter(make_console(stream), quiet=quiet) as reporter:
        assert type(reporter) is kind


LONG_STAGE = """
import sys, time
from nilr.cli.console import make_console
from nilr.cli.progress import make_reporter

with make_reporter(make_console(sys.stderr), quiet=False) as reporter:
    reporter.note("n" * 100)
    reporter.stage("ended", 2)
    reporter.advance(2)
    reporter.stage("reproduce", 24, unit="models")
    while True:
        reporter.expect(1000.0, 0.3)
        reporter.metric(**{f"demo-metasgd-nonneg-s{seed} training share": time.time() % 1 for seed in range(4)})
        time.sleep(0.05)
"""


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux, a terminal that can be resized")
def test_a_terminal_that_is_resized_keeps_one_bar(tmp_path: Path) -> None:
    def tmux(*words: str) -> str:
        done = subprocess.run(["tmux", "-S", tmp_path / "s", *words], capture_output=True, text=True, check=True)
        return done.stdout

    def screen() -> list[str]:
        return tmux("capture-pane", "-p", "-S", "-").split("\n")

    def until_drawn(columns: int) -> None:
        deadline = time.monotonic() + 30
        while not any("demo-metasgd-nonneg-s3" in line for line in screen()) or wide(columns):
            assert time.monotonic() < deadline, screen()
            time.sleep(0.1)

    def wide(columns: int) -> bool:
        return tmux("display", "-p", "#{pane_width}").strip() != str(columns)

    script = tmp_path / "stage.py"
    script.write_text(LONG_STAGE)
    tmux("new", "-d", "-x", "140", "-y", "24", f"exec {shlex.join([sys.executable, str(script)])}")
    try:
        until_drawn(140)
        for columns, rows in ((80, 24), (60, 12), (140, 24), (60, 50)):
            tmux("resize-window", "-x", str(columns), "-y", str(rows))
            until_drawn(columns)
            time.sleep(0.6)  # at least two frames
            shown = screen()
            assert [line.split()[0] for line in shown if "━" in line or "─" in line] == ["ended", "reproduce"], shown
            assert sum("demo-metasgd-nonneg-s0" in line for line in shown) == 1, shown
    finally:
        tmux("kill-server")


def test_a_frame_replaces_the_last_one_even_if_the_terminal_became_narrower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nilr.cli.progress._SECONDS_BETWEEN_FRAMES", 1000.0)
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, no_color=True, width=80, height=24)
    up = "\x1b[A\x1b[2K"
    with TerminalReporter(console, clock) as reporter:
        reporter.stage("probe", 10, unit="episodes")
        clock.now = 5.0
        reporter.advance(5)
        reporter.note("first")
        reporter.note("second")
        console.width = 20
        reporter.note("third")
    drawn = stream.getvalue().split("\r\x1b[2K")
    assert drawn[:3] == [
        f"probe {'─' * 16} 0/10 episodes",
        f"first\nprobe {'━' * 8}{'─' * 8} 5/10 episodes\n  1 episodes/s, 5 s elapsed, 5 s left",
        f"{up}second\nprobe {'━' * 8}{'─' * 8} 5/10 episodes\n  1 episodes/s, 5 s elapsed, 5 s left",
    ]
    assert drawn[3].startswith(f"{3 * up}third\n")  # the lines of 36 and 38 columns have become two each
    assert drawn[4].endswith("\n  5/10 episodes,\n  1 episodes/s,\n  in 5 s\n")
