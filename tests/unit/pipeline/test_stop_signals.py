"""SIGTERM and Ctrl-C: at once, or kept for work in hand; the second one always at once."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from pipeline.errors import Interrupted
from pipeline.stop_signals import StopSignals

WAIT_S = 20.0


def _hit(number: signal.Signals) -> None:
    """Send this process a signal, and wait for what comes of it."""
    os.kill(os.getpid(), number)
    time.sleep(WAIT_S)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_work_with_its_exit_code(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with StopSignals(), pytest.raises(Interrupted) as caught:
        _hit(number)
    assert caught.value.exit_code == code
    assert str(caught.value) == "interrupted"
    assert signal.getsignal(number) is before


def test_the_first_one_is_kept_and_the_second_one_is_not() -> None:
    with StopSignals() as signals, signals.deferred():
        began = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        signals.sleep(WAIT_S)
        assert time.monotonic() - began < WAIT_S / 2
        assert signals.received is signal.SIGTERM
        with pytest.raises(Interrupted) as caught:
            _hit(signal.SIGINT)
    assert caught.value.exit_code == 130


def test_what_handles_errors_does_not_hold_it_up() -> None:
    assert not issubclass(Interrupted, Exception)


def test_in_another_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def work() -> None:
        with StopSignals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
