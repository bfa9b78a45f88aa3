"""The runner of threads: order, errors, cancelling. That of Ray is tested on a cluster, and shares the loop."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest
import ray.exceptions
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError, InputError, PipelineError
from pipeline.shard_runner import Stopped, _told_plainly, on_threads, stop_if_asked


class Fault(DataError):
    """Of one item."""


@settings(max_examples=40, deadline=None)
@given(
    waits_ms=st.lists(st.integers(0, 3), max_size=12),
    failing=st.sets(st.integers(0, 11)),
    num_threads=st.integers(1, 4),
)
def test_results_and_the_first_error_are_in_order(waits_ms: list[int], failing: set[int], num_threads: int) -> None:
    begun: set[int] = set()
    told: list[int] = []

    def work(place: int) -> int:
        begun.add(place)
        time.sleep(waits_ms[place] / 1000)
        if place in failing:
            raise Fault(str(place))
        return place * place

    items = range(len(waits_ms))
    faults = sorted(failing & set(items))
    if not faults:
        assert on_threads(work, items, told.append, num_threads=num_threads) == [place * place for place in items]
        assert sorted(told) == [place * place for place in items]
        return
    with pytest.raises(Fault, match=f"^{faults[0]}$"):
        on_threads(work, items, told.append, num_threads=num_threads)
    assert begun >= set(range(faults[0] + 1))
    assert set(told) >= {place * place for place in range(faults[0])}
    if num_threads == 1:
        assert begun == set(range(faults[0] + 1))


def test_items_are_worked_on_side_by_side() -> None:
    together = threading.Barrier(3, timeout=30)
    assert len(on_threads(lambda _: together.wait(), range(6), lambda _: None, num_threads=3)) == 6


def _long(started: threading.Event, ended: list[str], place: int) -> None:
    if place == 0:
        started.wait(30)
        raise Fault("at once")
    started.set()
    try:
        while True:
            stop_if_asked()
            time.sleep(0.001)
    except Stopped:
        ended.append("stopped")
        raise


def test_work_that_nobody_waits_for_is_stopped() -> None:
    ended: list[str] = []
    with pytest.raises(Fault, match="at once"):
        on_threads(partial(_long, threading.Event(), ended), range(9), lambda _: None, num_threads=2)
    assert ended == ["stopped"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encnet-shards")]


def test_an_interrupt_stops_all_work() -> None:
    ended: list[str] = []
    started = threading.Event()

    def done(_: None) -> None:
        started.wait(30)
        raise KeyboardInterrupt

    def work(place: int) -> None:
        if place:
            _long(started, ended, place)

    with pytest.raises(KeyboardInterrupt):
        on_threads(work, range(9), done, num_threads=2)
    assert ended
    assert set(ended) == {"stopped"}


def test_outside_of_a_runner_nothing_is_asked() -> None:
    stop_if_asked()


def test_what_a_task_raised_is_told_as_it_was_raised() -> None:
    wrong = ray.exceptions.RayTaskError("work", "Traceback ...", InputError("x: is wrong: remove it"))
    assert repr(_told_plainly(wrong.as_instanceof_cause())) == "InputError('x: is wrong: remove it')"
    fault = ray.exceptions.RayTaskError("work", "Traceback ...", ZeroDivisionError("of ours"))
    assert _told_plainly(fault) is fault
    lost = _told_plainly(ray.exceptions.WorkerCrashedError())
    assert isinstance(lost, PipelineError)
    assert str(lost).startswith("the cluster lost a task (")
    assert "\n" not in str(lost)
