"""Shards worked on side by side: on this machine's cores, or as Ray tasks on a cluster. What comes out is the same.

Whatever the runner, results are in the order of the items, and the error that is raised is the first in that order:
what comes after it is cancelled, what comes before it is finished.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import cv2

from pipeline.errors import InputError, PipelineError, first_line

ITEMS_A_CPU = 2
"""In flight on a cluster: one that is worked on, and one that its node can begin at once."""
CANCEL_S = 10.0
A = TypeVar("A")
T = TypeVar("T")
_STOP: ContextVar[threading.Event | None] = ContextVar("_STOP", default=None)


class Runner(Protocol):
    """Calls `work` with each item, and `done` with each result as it comes; returns the results, in order."""

    def __call__(self, work: Callable[[A], T], items: Sequence[A], done: Callable[[T], object], /) -> list[T]: ...


class Stopped(Exception):
    """Raised within work whose result nobody waits for any more."""


def stop_if_asked() -> None:
    """Raise Stopped when this is a thread of `on_threads` and the work is over: to be called by long work."""
    stop = _STOP.get()
    if stop is not None and stop.is_set():
        raise Stopped


def on_threads(
    work: Callable[[A], T], items: Sequence[A], done: Callable[[T], object], *, num_threads: int | None = None
) -> list[T]:
    """A runner on this machine, of a thread a core."""
    stop = threading.Event()
    num_threads = num_threads or os.cpu_count() or 1
    pool = ThreadPoolExecutor(num_threads, "encnet-shards", initializer=_begin_thread, initargs=(stop,))
    try:
        return _run(lambda item: pool.submit(work, item), Future.cancel, items, done, num_threads)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_thread(stop: threading.Event) -> None:
    _STOP.set(stop)
    cv2.setNumThreads(0)


def on_ray(
    work: Callable[[A], T],
    items: Sequence[A],
    done: Callable[[T], object],
    *,
    num_tasks: int = 0,
    use_gpus: bool = False,
) -> list[T]:
    """A runner on the cluster at $RAY_ADDRESS, of a task an item; settings are those of the cluster's own environment.

    `num_tasks`: how many are there at once; 0: as many as keep the cluster busy.
    `use_gpus`: each has a GPU to itself, where the cluster has a GPU for each of `num_tasks`, or any at all.

    Raises InputError where there is no cluster, and PipelineError when it lost a task for good.
    """
    import ray  # seconds that only this runner should cost

    from pipeline.cluster import connect_ray

    connect_ray()
    shared = ray.put(work)
    resources = ray.cluster_resources()
    num_gpus = int(use_gpus and resources.get("GPU", 0) >= max(1, num_tasks))
    task: Any = ray.remote(_work_on_node).options(num_cpus=1, num_gpus=num_gpus, max_retries=3)
    cancelled: list[Any] = []

    def cancel(future: Future[T]) -> None:
        cancelled.append(future.object_ref)  # type: ignore[attr-defined]  # Ray's futures know their reference
        ray.cancel(cancelled[-1])

    in_flight = num_tasks or ITEMS_A_CPU * max(1, int(resources.get("CPU", 1)))
    try:
        return _run(lambda item: task.remote(shared, item).future(), cancel, items, done, in_flight)
    except ray.exceptions.RayError as error:
        raise _told_plainly(error) from None
    finally:
        if cancelled:  # a moment to remove what they have in temporary files
            ray.wait(cancelled, num_returns=len(cancelled), timeout=CANCEL_S)


def _work_on_node(work: Callable[[A], T], item: A) -> T:
    cv2.setNumThreads(0)
    return work(item)


def _told_plainly(error: Exception) -> Exception:
    """One of our errors as the task raised it; a lost task as a PipelineError; anything else with its traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, (InputError, PipelineError)):
        return type(cause)(*cause.args)
    if cause is not None:
        return error
    return PipelineError(f"the cluster lost a task ({first_line(error)}): run the command again")


def _run(
    submit: Callable[[A], Future[T]],
    cancel: Callable[[Future[T]], object],
    items: Sequence[A],
    done: Callable[[T], object],
    in_flight: int,
) -> list[T]:
    """Keep `in_flight` items submitted until all are done, or all before the first that fails."""
    results: dict[int, T] = {}
    running: dict[Future[T], int] = {}
    submitted, end = 0, len(items)
    failure: BaseException | None = None
    try:
        while submitted < end or running:
            while submitted < end and len(running) < in_flight:
                running[submit(items[submitted])] = submitted
                submitted += 1
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place = running.pop(future, end)
                if place >= end:
                    continue
                failed = future.exception()
                if failed is None:
                    results[place] = future.result()
                    done(results[place])
                    continue
                end, failure = place, failed
                for later in [other for other, at in running.items() if at > end]:
                    del running[later]
                    cancel(later)
    finally:
        for future in running:
            cancel(future)
    if failure is not None:
        raise failure
    return [results[place] for place in range(len(items))]
