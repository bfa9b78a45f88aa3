"""Reads over broken streams: whole or a typed error, and never a byte fetched twice."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError, StorageError
from pipeline.resumed_read import ObjectChanged, PassingFault, Patience, ReadCancelled, Stream, Versioned, read_resumed

DATA = bytes(range(200))
HURRIED = Patience(slow_after_s=0.05, max_wait_s=0.0)


class Shaky:
    """An object whose n-th stream breaks as the n-th of `breaks` says: (bytes given first, how)."""

    def __init__(self, breaks: list[tuple[int, str]], versions: Callable[[int], str] = lambda _: "v1") -> None:
        self.breaks, self.versions = breaks, versions
        self.asked: list[tuple[int, str]] = []
        self.num_sent = 0

    @contextmanager
    def open(self, skip: int, version: str) -> Iterator[Stream]:
        number = len(self.asked)
        self.asked.append((skip, version))
        given, how = self.breaks[number] if number < len(self.breaks) else (len(DATA), "no")
        if how == "refused":
            raise PassingFault("s3://b/k: 503")
        yield Stream(self.versions(number), len(DATA) - skip, self._chunks(DATA[skip:][:given], how))

    def _chunks(self, data: bytes, how: str) -> Iterator[bytes]:
        for start in range(0, len(data), 7):
            self.num_sent += len(data[start : start + 7])
            yield data[start : start + 7]
            if how == "trickles":
                time.sleep(0.02)
        if how == "reset":
            raise PassingFault("s3://b/k: Connection reset by peer")

    def read(
        self, patience: Patience = HURRIED, version: str = "", cancelled: threading.Event | None = None
    ) -> Versioned:
        return read_resumed(
            self.open, uri="s3://b/k", what="bytes 0-199", version=version, patience=patience, cancelled=cancelled
        )


class Impatient(threading.Event):
    """Notes what it is waited for, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return False


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from(["refused", "reset", "ends"])), max_size=8))
def test_however_it_breaks_all_bytes_come_and_none_twice(breaks: list[tuple[int, str]]) -> None:
    shaky = Shaky(breaks)
    assert shaky.read(Patience(max_wait_s=0.0)) == Versioned(DATA, "v1")
    assert shaky.num_sent == len(DATA)
    skips = [skip for skip, _ in shaky.asked]
    assert skips == sorted(skips)
    assert {version for skip, version in shaky.asked if skip} <= {"v1"}


def test_a_trickle_is_cut_and_taken_up_by_another_stream() -> None:
    shaky = Shaky([(200, "trickles")])
    began = time.monotonic()
    assert shaky.read().data == DATA
    assert len(shaky.asked) == 2
    assert 0 < shaky.asked[1][0] < 200
    assert time.monotonic() - began < 200 / 7 * 0.02


def test_a_slow_stream_that_is_all_there_is_taken() -> None:
    shaky = Shaky([(200, "trickles")])
    assert shaky.read(Patience(slow_after_s=10, max_wait_s=0)).data == DATA
    assert len(shaky.asked) == 1


def test_what_does_not_pass_for_long_is_given_up_naming_object_range_and_attempts() -> None:
    shaky = Shaky([(0, "refused")] * 1_000_000)
    with pytest.raises(
        StorageError, match=r"^s3://b/k: bytes 0-199: given up after \d+ attempts, with no byte for \d+\.\d s: 503$"
    ) as caught:
        shaky.read(Patience(stall_s=0.05, max_wait_s=0.0))
    assert f"after {len(shaky.asked)} attempts" in str(caught.value)
    assert type(caught.value) is StorageError
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_bytes_that_come_renew_the_patience() -> None:
    shaky = Shaky([(20, "trickles")] * 9)
    assert shaky.read(Patience(stall_s=0.4, slow_after_s=10, max_wait_s=0)).data == DATA
    assert len(shaky.asked) == 10  # 0.06 s each, 0.6 s together


def test_the_pauses_grow_and_are_drawn_at_random() -> None:
    impatient = Impatient()
    Shaky([(0, "refused")] * 60).read(Patience(stall_s=60, max_wait_s=2), cancelled=impatient)
    pauses = [pause for pause in impatient.pauses if pause is not None]
    assert len(pauses) == 60
    assert all(pause <= 0.1 * 2**number for number, pause in enumerate(pauses[:5]))
    assert max(pauses) <= 2
    assert max(pauses[10:]) > 1
    assert len(set(pauses)) > 50


@pytest.mark.parametrize("how", ["refused", "trickles"])
def test_a_read_that_is_no_longer_wanted_ends_at_once(how: str) -> None:
    shaky, cancelled = Shaky([(200, how)] * 1000), threading.Event()
    ending = threading.Timer(0.2, cancelled.set)
    ending.start()
    began = time.monotonic()
    with pytest.raises(ReadCancelled, match=r"^s3://b/k: is no longer wanted$"):
        shaky.read(Patience(slow_after_s=10, max_wait_s=10), cancelled=cancelled)
    assert time.monotonic() - began < 1
    ending.join()
    with pytest.raises(ReadCancelled):
        Shaky([]).read(cancelled=cancelled)


def test_what_can_not_pass_is_not_tried_again() -> None:
    class Denied(Shaky):
        @contextmanager
        def open(self, skip: int, version: str) -> Iterator[Stream]:
            self.asked.append((skip, version))
            raise InputError("s3://b/k: access denied")
            yield

    denied = Denied([])
    with pytest.raises(InputError, match="access denied"):
        denied.read()
    assert len(denied.asked) == 1


@pytest.mark.parametrize("version", ["", "v1"])
def test_two_versions_are_never_put_together(version: str) -> None:
    """Even where the store takes no notice of the version asked for."""
    shaky = Shaky([(100, "reset")], versions=lambda number: f"v{number + 1}")
    with pytest.raises(ObjectChanged) as caught:
        shaky.read(version=version)
    assert str(caught.value) == (
        "s3://b/k: was replaced while in use (its version was v1 and is v2 now): leave a data set alone while it is "
        "read, and start again"
    )
    assert shaky.asked == [(0, version), (100, "v1")]
