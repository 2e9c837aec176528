from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from nilr.errors import Interrupted
from nilr.signals import stopping_gracefully, unwinding


def test_the_first_signal_asks_and_the_second_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping_gracefully() as stop:
        assert not stop
        signal.raise_signal(signal.SIGINT)
        assert stop
        assert stop.signum == signal.SIGINT
        assert not stop.urgent
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        assert stop.urgent
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unwinds_a_block_even_where_the_shell_lets_it_be_ignored(signum: signal.Signals) -> None:
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with pytest.raises(Interrupted) as caught, unwinding():
            signal.raise_signal(signum)
        assert signal.getsignal(signum) is signal.SIG_IGN
    finally:
        signal.signal(signum, before)
    assert caught.value.signum == signum


def test_a_hangup_unwinds_a_block_and_under_nohup_it_does_not() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted) as caught, unwinding():
            signal.raise_signal(signal.SIGHUP)
        assert caught.value.signum == signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with unwinding(), stopping_gracefully() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interruption_that_a_library_hides_behind_an_error_stays_one() -> None:
    # As pydantic does, where the signal arrives while it builds a schema.
    def building() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Interrupted as interrupted:
            raise ValueError(f"cannot build: {interrupted}") from None

    with pytest.raises(Interrupted) as caught, unwinding():
        building()
    assert caught.value.signum == signal.SIGTERM
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_before_any_signal_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match="mine"), unwinding():
        raise ValueError("mine")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_process_leaves_does_not_change_its_status(signum: signal.Signals) -> None:
    leaving = (
        "import atexit, signal, sys\n"
        f"atexit.register(lambda: signal.raise_signal({int(signum)}))\n"
        "sys.argv = ['nilr', '--version']\n"
        "from nilr.__main__ import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", leaving], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nilr ")
