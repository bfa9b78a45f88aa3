"""One read over as many streams as it takes: resumed at the byte after a fault that passes, with jittered backoff.

Knows no storage: a store opens streams and says which of its faults may pass (`PassingFault`); all others go through.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    wait_random_exponential,
)

from pipeline.errors import StorageError


class PassingFault(StorageError):
    """A fault that may be gone the next time: an overloaded store, a broken or stalled connection."""


class ObjectNotFound(StorageError):
    """There is no object of that name."""


class ObjectChanged(StorageError):
    """The object is no longer the one whose first bytes were read."""


class ReadCancelled(StorageError):
    """Nobody wants the bytes any more."""


class Versioned(NamedTuple):
    """Bytes of an object, and what tells its contents from others'."""

    data: bytes
    version: str
    """The ETag, or size and time of a file; empty where the store tells none."""


class Stream(NamedTuple):
    """An answer on its way."""

    version: str
    size: int
    """Bytes that it will give."""
    chunks: Iterator[bytes]
    """Each as soon as it is there. Raises PassingFault; may end early."""


OpenStream = Callable[[int, str], AbstractContextManager[Stream]]
"""(bytes to leave out at the start, the version wanted or "") -> a stream of the rest. Raises PassingFault, or what
can't pass."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When to wait, when to ask again, and when to give up."""

    stall_s: float = 60.0
    """A read fails once this long has gone by without a byte: a store may take that long to come back."""
    slow_after_s: float = 2.0
    """How long a stream may be slower than `min_bytes_per_s` before a new one takes over."""
    min_bytes_per_s: float = 16384.0
    max_wait_s: float = 5.0
    """Longest pause between two attempts; the first is up to 0.1 s, and each is drawn at random from 0 on."""


def read_resumed(
    open_stream: OpenStream,
    *,
    uri: str,
    what: str,
    version: str,
    patience: Patience,
    cancelled: threading.Event | None = None,
) -> Versioned:
    """All bytes of an object or a range of it; `what` names them in errors, after `uri`.

    Raises StorageError naming both and the number of attempts when no byte has come for `patience.stall_s`,
    ObjectChanged when a stream is of another version than `version` or the streams before it, ReadCancelled once
    `cancelled` is set (a pause ends at once, a stream with its next bytes), and whatever `open_stream` raises that is
    no PassingFault.
    """
    cancelled = cancelled or threading.Event()
    read = _Read(open_stream, uri, version, patience, cancelled)
    retrying = Retrying(
        retry=retry_if_exception_type(PassingFault),
        wait=wait_random_exponential(multiplier=0.1, max=patience.max_wait_s),
        stop=read.has_stalled,
        sleep=sleep_using_event(cancelled),
        reraise=True,
    )
    try:
        retrying(read.receive)
    except PassingFault as fault:
        attempts = retrying.statistics["attempt_number"]
        reason = str(fault).removeprefix(f"{uri}: ")
        raise StorageError(
            f"{uri}: {what}: given up after {attempts} attempts, with no byte for {read.stalled_s:.1f} s: {reason}"
        ) from fault
    return Versioned(b"".join(read.parts), read.version)


class _Read:
    """What has come so far."""

    def __init__(
        self, open_stream: OpenStream, uri: str, version: str, patience: Patience, cancelled: threading.Event
    ) -> None:
        self.parts: list[bytes] = []
        self.version = version
        self._num_bytes = 0
        self._open_stream, self._uri, self._patience, self._cancelled = open_stream, uri, patience, cancelled
        self._progress_at = time.monotonic()

    @property
    def stalled_s(self) -> float:
        return time.monotonic() - self._progress_at

    def has_stalled(self, _: RetryCallState) -> bool:
        return self.stalled_s >= self._patience.stall_s

    def receive(self) -> None:
        """Take what one stream gives. PassingFault when that is not all."""
        end_if(self._cancelled, self._uri)
        with self._open_stream(self._num_bytes, self.version) as stream:
            # A store that does not know If-Match answers all the same.
            if self.version and stream.version != self.version:
                raise changed(self._uri, self.version, stream.version)
            self.version = stream.version
            self._drain(stream)

    def _drain(self, stream: Stream) -> None:
        began, received = time.monotonic(), 0
        for chunk in stream.chunks:
            self.parts.append(chunk)
            self._num_bytes += len(chunk)
            received += len(chunk)
            self._progress_at = time.monotonic()
            end_if(self._cancelled, self._uri)
            elapsed = self._progress_at - began
            is_slow = elapsed > self._patience.slow_after_s and received < elapsed * self._patience.min_bytes_per_s
            if is_slow and received < stream.size:
                raise PassingFault(f"{self._uri}: {received} bytes in {elapsed:.1f} s")
        if received != stream.size:
            raise PassingFault(f"{self._uri}: the stream ended after {received} of {stream.size} bytes")


def end_if(cancelled: threading.Event | None, uri: str) -> None:
    """Raise ReadCancelled once it is."""
    if cancelled and cancelled.is_set():
        raise ReadCancelled(f"{uri}: is no longer wanted")


def changed(uri: str, was: str, now: str = "") -> ObjectChanged:
    """The error for an object that is no longer the one it was."""
    became = f" and is {now} now" if now else ""
    return ObjectChanged(
        f"{uri}: was replaced while in use (its version was {was}{became}): leave a data set alone while it is read, "
        "and start again"
    )


def cut_short(uri: str, offset: int, length: int | None, found: int) -> StorageError:
    """The error for an object that ends before the range asked for does."""
    wanted = "any" if length is None else length
    return StorageError(f"{uri}: {wanted} bytes asked for at offset {offset}, {found} are there: it is cut short")
