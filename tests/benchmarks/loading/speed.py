"""How fast a loader is: images a second once it runs, and from a cold start, with how long the first batch takes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import psutil

from tests.benchmarks.loading.loaders import (
    Open,
    Share,
    Step,
    decode_ours,
    decode_pillow,
    decode_pillow_float,
    enter,
    open_files,
    open_ours,
    open_ours_in_processes,
    open_webdataset,
)
from tests.benchmarks.loading.streaming_peer import import_streaming, open_streaming

LOADERS: Mapping[str, Open] = {
    "files": open_files,
    "float files": partial(open_files, form=decode_pillow_float),
    "naive webdataset": partial(open_webdataset, form=decode_pillow),
    "webdataset": open_webdataset,
    "streaming": open_streaming,
    "ours": open_ours,
    "ours in processes": open_ours_in_processes,
}
WARM_STEPS = 4
_MODULES = ["tests.benchmarks.loading.epochs", "pyarrow.parquet", "boto3.s3.transfer"]


@contextmanager
def processes(count: int = 1) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, forked from one that has loaded the modules and nothing else."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        yield pool


class Rate(NamedTuple):
    """Of a loader that runs."""

    images_per_s: float
    cpu_ms: float
    """Processor time an image, of the loader's processes: what another program on the machine changes least."""


def steady_rate(name: str, share: Share, seconds: float) -> Rate:
    """Over `seconds`, or until the epoch ends, after the first few steps."""
    enter(share)
    with closing(_open(name, share)) as steps:
        for _ in itertools.islice(steps, WARM_STEPS):
            pass
        began, cpu_s, images, elapsed = time.perf_counter(), _cpu_seconds(), 0, 0.0
        for step in steps:
            images, elapsed = images + len(step.samples), time.perf_counter() - began
            if elapsed > seconds:
                break
        return Rate(images / elapsed, (_cpu_seconds() - cpu_s) / images * 1000)


def _cpu_seconds() -> float:
    """Of this process and those that it has started."""
    ours = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in [ours, *ours.children(recursive=True)])


def _prepare(name: str, share: Share) -> None:
    """What is done once a program, and does not count."""
    enter(share)
    if name == "streaming":
        import_streaming()


def _open(name: str, share: Share) -> Any:
    return LOADERS[name](share)


def decode_rate(share: Share, threads: int, seconds: float) -> Rate:
    """Decoding and augmenting as ours does, from bytes in memory, nothing else being done."""
    enter(share)
    source = share.source
    coded = [
        (source.file(number, "jpg").read_bytes(), source.file(number, "seg.png").read_bytes(), number)
        for number in range(source.num_pictures)
    ]

    def decode_some(first: int) -> tuple[int, float]:
        began = time.perf_counter()
        for done, sample in enumerate(itertools.islice(itertools.cycle(coded), first, None), start=1):
            decode_ours(*sample, source.transform)
            if (elapsed := time.perf_counter() - began) > seconds:
                return done, elapsed
        raise AssertionError("a cycle does not end")

    cpu_s = _cpu_seconds()
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(decode_some, range(threads)))
    images = sum(done for done, _ in parts)
    return Rate(sum(done / elapsed for done, elapsed in parts), (_cpu_seconds() - cpu_s) / images * 1000)


class Cold(NamedTuple):
    """An epoch with all caches empty."""

    images_per_s: float
    """From before the loader is made to its last batch."""
    first_batch_s: float
    middle: Step | None
    """The last step of the epoch's first half."""


def cold_epoch(name: str, share: Share) -> Cold:
    """A whole epoch, or what `share.state` leaves of it."""
    _prepare(name, share)
    began, images, first_s, middle = time.perf_counter(), 0, 0.0, None
    with closing(_open(name, share)) as steps:
        for step in steps:
            first_s = first_s or time.perf_counter() - began
            images += len(step.samples)
            if images <= share.source.num_samples // 2:
                middle = step
    return Cold(images / (time.perf_counter() - began), first_s, middle)


def epoch_samples(name: str, share: Share) -> list[int]:
    """All samples of an epoch, in the order they came in."""
    _prepare(name, share)
    with closing(_open(name, share)) as steps:
        return [sample for step in steps for sample in step.samples]


def first_batch_s(name: str, share: Share) -> float:
    """Seconds from before the loader is made, as `share.state` says, to its first batch."""
    _prepare(name, share)
    began = time.perf_counter()
    with closing(_open(name, share)) as steps:
        next(steps)
        return time.perf_counter() - began
