"""The part of an evaluation that workers do: a chunk of a split is read, predicted and counted, or a sample drawn."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

import encnet
from pipeline.bootstrap import class_counts
from pipeline.calibration import Calibration
from pipeline.errors import DataError, PipelineError
from pipeline.eval_loader import EvalLoader
from pipeline.evaluation_plan import Protocol
from pipeline.evaluation_tally import NUM_BINS, Tally
from pipeline.predict_model import NoMemory, Weights, classify, load_network
from pipeline.report import Palette, sample_picture
from pipeline.sample_reader import SampleReader
from pipeline.shards import IGNORE_INDEX, ShardIndex
from pipeline.storage import Store
from pipeline.transforms import Image, Label
from pipeline.world import World

JPEG_QUALITY = 85
NUM_COUNTERS = 4
"""Threads that count beside a GPU: the boundaries of a large image take longer than its prediction there."""
A = TypeVar("A")
T = TypeVar("T")


class _Predicted(NamedTuple):
    """What the network makes of an image."""

    ids: Label
    """(H, W)."""
    confidence: NDArray[np.float32]
    """(H, W): the probability of the class in `ids`."""


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """All that it takes to evaluate a chunk, as a value that can be sent to a worker."""

    weights: Weights
    protocol: Protocol
    store: Store
    index: ShardIndex
    num_classes: int
    num_chunks: int

    def __call__(self, chunk: int) -> tuple[int, Tally]:
        """Count the samples of a chunk; gives its number too, since chunks are finished in any order.

        Raises DataError and StorageError for samples that can't be read, PipelineError where memory is too short.
        """
        network, is_fresh = self._load()
        has_gpu = torch.cuda.is_available()
        if has_gpu:
            torch.cuda.reset_peak_memory_stats()
        times_ms: list[float] = []
        counter = _Counter(self.num_classes)
        predicted = self._predictions(network, World(chunk, self.num_chunks), times_ms)
        for counted in in_threads(self._count, predicted, NUM_COUNTERS if has_gpu else 0):
            counter.add(counted)
        return chunk, counter.tally(times_ms[int(is_fresh) :])

    def draw(self, sample: int, classes: tuple[str, ...], palette: Palette) -> bytes:
        """A sample beside its truth, its prediction and what is wrong of it: a JPEG."""
        network, _ = self._load()
        image, truth = SampleReader(self.store, self.index).load(sample)
        (predicted,) = self._predict(network, image[None], [sample])
        picture = sample_picture(self.index.keys[sample], image, truth, predicted.ids, classes, palette)
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), JPEG_QUALITY, "RGB"))

    def _load(self) -> tuple[encnet.SegmentationNet, bool]:
        """The network, and whether this process had not loaded it before: its first batch takes longer."""
        if not torch.cuda.is_available():
            torch.set_num_threads(1)
        before = load_network.cache_info().misses
        network = load_network(self.weights)
        return network, load_network.cache_info().misses > before

    def _predict(self, network: encnet.SegmentationNet, images: Image, samples: list[int]) -> Iterator[_Predicted]:
        """Images of one size, (B, H, W, 3), together, or one by one where memory is too short for that."""
        maps = None
        with suppress(NoMemory):
            maps = classify(network, list(images), self.protocol.options)
        if maps is not None:
            yield from map(_Predicted, *maps)
        elif len(images) > 1:  # by now what the error held is free again
            for image, sample in zip(images, samples, strict=True):
                yield from self._predict(network, image[None], [sample])
        else:
            height, width = images.shape[1:3]
            raise PipelineError(
                f"sample {self.index.keys[samples[0]]!r}, {height} x {width}: there is no memory for it: "
                "give --crop-size, or fewer --num-workers"
            )

    def _predictions(
        self, network: encnet.SegmentationNet, world: World, times_ms: list[float]
    ) -> Iterator[tuple[int, _Predicted, torch.Tensor]]:
        """Each sample of a chunk with its prediction and its label (H, W); notes how long an image of a batch took."""
        for batch in EvalLoader(self.store, self.index, world=world, batch_size=self.protocol.batch_size):
            samples = batch.sample_ids.tolist()
            began = time.perf_counter()
            predicted = list(self._predict(network, batch.images.numpy(), samples))
            times_ms.append(1000 * (time.perf_counter() - began) / len(predicted))
            yield from zip(samples, predicted, batch.labels, strict=True)

    def _count(self, found: tuple[int, _Predicted, torch.Tensor]) -> _Counted:
        sample, predicted, label = found
        try:
            return _count_sample(self.num_classes, sample, predicted, label)
        except ValueError as error:
            shard = self.store.uri(self.index.shard_key(sample))
            raise DataError(f"{shard}: sample {self.index.keys[sample]!r}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Painter:
    """Draws samples; a value that can be sent to a worker."""

    evaluator: Evaluator
    classes: tuple[str, ...]
    palette: Palette

    def __call__(self, sample: int) -> bytes:
        """The JPEG of a sample."""
        return self.evaluator.draw(sample, self.classes, self.palette)


class _Counted(NamedTuple):
    """What is found of one sample."""

    sample: int
    confusion: encnet.ConfusionMatrix
    boundary: encnet.BoundaryFScore
    calibration: Calibration
    is_finite: bool
    """All probabilities are numbers."""


def _count_sample(num_classes: int, sample: int, predicted: _Predicted, label: torch.Tensor) -> _Counted:
    """`label`: (H, W). Raises ValueError for an id that is no class."""
    ids, confidence = map(torch.from_numpy, predicted)
    confusion, boundary = encnet.ConfusionMatrix(num_classes), encnet.BoundaryFScore(num_classes)
    confusion.update(ids, label)
    boundary.update(ids, label)
    finite, calibration = confidence.isfinite(), Calibration(NUM_BINS)
    calibration.update(confidence, ids, torch.where(finite, label, IGNORE_INDEX))
    return _Counted(sample, confusion, boundary, calibration, bool(finite.all()))


class _Counter:
    """Adds up what is found of one sample after the other."""

    def __init__(self, num_classes: int) -> None:
        self._confusion = encnet.ConfusionMatrix(num_classes)
        self._boundary = encnet.BoundaryFScore(num_classes)
        self._calibration = Calibration(NUM_BINS)
        self._samples: list[int] = []
        self._not_finite: list[int] = []
        self._counts = [np.zeros((0, 3, num_classes), np.int64)]

    def add(self, found: _Counted) -> None:
        """Count a sample."""
        self._confusion += found.confusion
        self._boundary += found.boundary
        self._calibration += found.calibration
        self._samples.append(found.sample)
        self._not_finite += [] if found.is_finite else [found.sample]
        self._counts.append(class_counts(found.confusion.matrix.numpy())[None])

    def tally(self, times_ms: list[float]) -> Tally:
        """All that was counted."""
        has_gpu, calibration = torch.cuda.is_available(), self._calibration
        return Tally(
            sample_ids=np.array(self._samples, np.int64),
            counts=np.concatenate(self._counts),
            matrix=self._confusion.matrix.numpy(),
            boundary_total=self._boundary.total,
            boundary_images=self._boundary.num_images,
            reliability=np.stack([calibration.num_pixels, calibration.num_right, calibration.confidence]),
            not_finite=np.array(self._not_finite, np.int64),
            times_ms=np.array(times_ms, np.float64),
            peak_bytes=np.array([torch.cuda.max_memory_allocated()] if has_gpu else [], np.int64),
            devices=np.array([torch.cuda.get_device_name() if has_gpu else "one CPU core"]),
        )


def in_threads(work: Callable[[A], T], items: Iterable[A], num_threads: int) -> Iterator[T]:
    """What `work` gives for each of `items`, in order: by threads, some items ahead, or with 0 of them by this one."""
    if not num_threads:
        yield from map(work, items)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(num_threads, "encnet-evaluate") as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
