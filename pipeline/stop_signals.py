"""SIGTERM and Ctrl-C as a request that work in hand may see to, and as the end where it does not."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Any

from pipeline.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals(AbstractContextManager["StopSignals"]):
    """While open, SIGTERM and SIGINT raise `Interrupted` in the main thread.

    But the first one that comes inside `deferred()` is only kept in `received`. Opened in another thread than the
    main one, it changes nothing: signals are the main thread's.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Keep the first signal that comes in here for the caller to see to."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def sleep(self, seconds: float) -> None:
        """Wait; no longer than until a signal has come."""
        until = time.monotonic() + seconds
        while self.received is None and (rest := until - time.monotonic()) > 0:
            time.sleep(min(0.2, rest))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.received = self.received is None, signal.Signals(number)
        if not (first and self._deferred):
            raise Interrupted(number)
