from __future__ import annotations

import signal

import pytest

from nilr.errors import Interrupted
from nilr.signals import stopping_gracefully, unwinding


def test_the_first_signal_asks_and_the_second_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping_gracefully() as stop:
        assert not stop
        signal.raise_signal(signal.SIGINT)
        assert stop
        with pytest.raises(Interrupted) as caught:
            stop.raise_if_set()
        assert caught.value.signum == signal.SIGINT
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
