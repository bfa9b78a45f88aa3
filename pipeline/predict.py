"""Prediction of images: read and decoded ahead, classified in batches of one size, encoded and written behind.

Results don't depend on where they are made: in this process, with all its cores or its GPU, or in tasks of a cluster.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.predict_inputs import Decoded, load_image
from pipeline.predict_model import NoMemory, Options, Weights, classify, load_network
from pipeline.predict_plan import Input, Job, fingerprint, share_out
from pipeline.predict_results import Classes, write_results
from pipeline.shard_runner import on_ray
from pipeline.shards import IGNORE_INDEX
from pipeline.storage import Store

NUM_THREADS = 4
"""That decode, and that encode and write."""
BATCHES_AHEAD = 2


class Outcome(NamedTuple):
    """What became of an image."""

    uri: str
    fault: str = ""
    """Why there is no result."""


class _Batch(NamedTuple):
    """Neighbours of one size, or neighbours that can't be predicted."""

    jobs: list[Job]
    found: list[Decoded]


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """All that it takes to predict images, as a value that can be sent to a worker."""

    model_uri: str
    weights: Weights
    classes: Classes
    options: Options
    batch_size: int
    """Images of one size that are predicted together: not part of what results depend on, but for rounding."""
    output: Store

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size: {self.batch_size}: must be 1 or more")
        if len(self.classes.names) > IGNORE_INDEX:
            raise InputError(f"MODEL: has {len(self.classes.names)} classes: class maps hold at most {IGNORE_INDEX}")

    @property
    def identity(self) -> str:
        """sha256 (hex) of all that results depend on, but for the image."""
        facts = [self.weights.digest, asdict(self.options), self.classes]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def __call__(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Predict images as a task of a cluster, which has one core."""
        if not torch.cuda.is_available():
            torch.set_num_threads(1)
        return list(self.outcomes(jobs))

    def outcomes(self, jobs: Sequence[Job]) -> Generator[Outcome]:
        """Predict images; tells of each when its results are stored, in order.

        Raises StorageError and InputError when a store fails.
        """
        readers = ThreadPoolExecutor(NUM_THREADS, "encnet-predict-read", cv2.setNumThreads, (0,))
        writers = ThreadPoolExecutor(NUM_THREADS, "encnet-predict-write")
        cancelled = threading.Event()
        written: deque[Future[Outcome]] = deque()
        try:
            ahead = BATCHES_AHEAD * self.batch_size + NUM_THREADS
            loaded = _load_ahead(jobs, lambda image: readers.submit(load_image, image, cancelled), ahead)
            for batch in _batches(loaded, self.batch_size):
                written += [writers.submit(finish) for finish in self._finishers(batch)]
                while len(written) > BATCHES_AHEAD * self.batch_size:
                    yield written.popleft().result()
            while written:
                yield written.popleft().result()
        finally:
            cancelled.set()
            readers.shutdown(wait=True, cancel_futures=True)
            writers.shutdown(wait=True, cancel_futures=True)

    def _finishers(self, batch: _Batch) -> Iterator[Callable[[], Outcome]]:
        """What is left to do for each image of a batch once the network has seen it."""
        images = [found.image for found in batch.found if found.image is not None]
        if not images:
            yield from (partial(self._refuse, job, found.fault) for job, found in zip(*batch, strict=True))
            return
        maps = None
        with suppress(NoMemory):
            maps = classify(load_network(self.weights), images, self.options)
        if maps is None:  # by now what the error held is free again
            yield from self._finishers_of_large(batch)
        else:
            yield from (partial(self._write, *parts) for parts in zip(*batch, *maps, strict=True))

    def _finishers_of_large(self, batch: _Batch) -> Iterator[Callable[[], Outcome]]:
        """For images for which there is too little memory: one by one, or not at all."""
        if len(batch.jobs) > 1:
            for job, found in zip(*batch, strict=True):
                yield from self._finishers(_Batch([job], [found]))
        else:
            yield partial(self._refuse, batch.jobs[0], "there is no memory for it: give --crop-size")

    def _write(self, job: Job, found: Decoded, ids: NDArray[np.uint8], confidence: NDArray[np.float32]) -> Outcome:
        self._clear(job)
        assert found.image is not None
        image, options = job.image._replace(version=found.version), asdict(self.options)
        facts = {"input": image.uri, "model": self.model_uri, "fingerprint": fingerprint(image, self.identity)}
        facts |= {name: options[name] for name in ("scales", "flip", "crop_size", "stride")}
        write_results(
            self.output,
            image.name,
            found.image,
            ids,
            confidence,
            self.classes,
            facts,
            with_overlay=self.options.overlay,
        )
        return Outcome(image.uri)

    def _refuse(self, job: Job, fault: str) -> Outcome:
        self._clear(job)
        return Outcome(job.image.uri, fault)

    def _clear(self, job: Job) -> None:
        """Remove what is there of other options, or of the image as it was."""
        for key in job.leftovers:
            self.output.delete(key)


def predict_here(predictor: Predictor, jobs: Sequence[Job], done: Callable[[int], object]) -> list[Outcome]:
    """Predict images in this process; `done` is told how many more are done."""
    outcomes = []
    with closing(predictor.outcomes(jobs)) as running:
        for outcome in running:
            outcomes.append(outcome)
            done(1)
    return outcomes


def predict_on_ray(
    predictor: Predictor, jobs: Sequence[Job], done: Callable[[int], object], num_workers: int
) -> list[Outcome]:
    """The same by `num_workers` tasks at a time on the cluster at $RAY_ADDRESS, on GPUs where it has as many."""
    shares = share_out(jobs, num_workers, predictor.batch_size)
    shared = on_ray(predictor, shares, lambda share: done(len(share)), num_tasks=num_workers, use_gpus=True)
    return [outcome for share in shared for outcome in share]


def _load_ahead(
    jobs: Iterable[Job], load: Callable[[Input], Future[Decoded]], ahead: int
) -> Iterator[tuple[Job, Decoded]]:
    """The jobs with their images, in order; `ahead` more are being read."""
    waiting: deque[tuple[Job, Future[Decoded]]] = deque()
    for job in jobs:
        waiting.append((job, load(job.image)))
        if len(waiting) > ahead:
            first, found = waiting.popleft()
            yield first, found.result()
    for first, found in waiting:
        yield first, found.result()


def _batches(loaded: Iterable[tuple[Job, Decoded]], batch_size: int) -> Iterator[_Batch]:
    """Neighbours of one size together."""
    batch, size = _Batch([], []), None
    for job, found in loaded:
        found_size = None if found.image is None else found.image.shape
        if batch.jobs and (found_size != size or len(batch.jobs) == batch_size):
            yield batch
            batch = _Batch([], [])
        size = found_size
        batch.jobs.append(job)
        batch.found.append(found)
    if batch.jobs:
        yield batch
