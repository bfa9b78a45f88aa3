"""What Ray shows of its processes on the driver's terminal: all of it, but for what is known to mean nothing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any, TextIO

_NOISE = re.compile(
    # Ray Train's own actor, at the start of each attempt: it is never restarted, so the warning can't come true.
    r"'PreemptionWatcher' .* has constructor arguments in the object store"
    # The processes of a sweep's trials take no CPU, so that there are more of them than CPUs: as it is meant to be.
    r"|WARNING: \d+ PYTHON worker processes have been started on node"
)
_NOISY_TRACEBACK = "Graceful shutdown of backend failed. This is expected if one of the workers has crashed."
_CONTROLLER = "(TrainController"


class _Sieve:
    """A text stream without the noise. Ray prints a line, and then its end, in two writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drops_end = self._drops_traceback = False

    def write(self, text: str) -> int:
        if text == "\n" and self._drops_end:
            self._drops_end = False
            return 1
        if _NOISY_TRACEBACK in text:
            self._drops_traceback = True
        elif _CONTROLLER not in text and text != "\n":
            self._drops_traceback = False
        if (self._drops_traceback and text != "\n") or _NOISE.search(text):
            self._drops_end = not text.endswith("\n")
        else:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def sifted_output() -> Iterator[None]:
    """While open, stderr is without Ray's noise, and without its colours where it is no terminal.

    To be opened inside of a live display, which wraps the lines that it is given.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    with redirect_stderr(_Sieve(sys.stderr)):
        yield
