from __future__ import annotations

import io

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


def test_metrics_in_a_log_are_fractions_and_none_removes_one() -> None:
    clock = Clock()
    stream, reporter = plain(clock)
    with reporter:
        reporter.stage("meta-train", 2)
        reporter.metric(query_loss=1.61, accuracy_after=0.25, validation=0.5)
        reporter.metric(validation=None)
        reporter.advance()
    assert stream.getvalue().splitlines()[-1].endswith(", query_loss 1.61, accuracy_after 0.2500")


def test_metrics_alone_keep_a_log_alive() -> None:
    clock = Clock()
    stream, reporter = plain(clock)
    with reporter:
        reporter.stage("validate")
        clock.now = 11.0
        reporter.metric(validation=0.5)
    assert stream.getvalue().splitlines() == ["validate", "validate: 11 s elapsed, validation 0.5000"]


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
