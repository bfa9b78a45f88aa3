"""Order -> ranged reads -> decode -> augment -> batch, by threads, ahead of need.

What a batch holds is a function of (order, seed, step) alone: ranks only share it out, and threads only hurry.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from types import TracebackType
from typing import NamedTuple, Self

import cv2
import numpy as np
import torch

from pipeline.augment import augment, augment_rng
from pipeline.bad_samples import BadSample, BadSamples, substitutes, too_many
from pipeline.batch_plan import BatchPlan, block_bytes, plan_batches, plans_ahead
from pipeline.block_cache import BlockCache
from pipeline.errors import InputError
from pipeline.node_cache import NodeCache
from pipeline.order import Order
from pipeline.sample_reader import NUM_READERS, SampleReader
from pipeline.shards import ShardIndex
from pipeline.storage import Store
from pipeline.transforms import Image, Label, TransformConfig
from pipeline.world import World

MEMORY_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Batch:
    """This rank's part of one micro-batch; it may be empty."""

    images: torch.Tensor
    """(n, H, W, 3) uint8 RGB."""
    labels: torch.Tensor
    """(n, H, W) uint8 train ids, 255 = ignore."""
    positions: torch.Tensor
    """(n,) int64: the lane, that is the place in the global batch."""
    sample_ids: torch.Tensor
    """(n,) int64: rows of the split's index, of what is shown."""
    step: int
    """The global batch this belongs to, counted from 0."""
    micro_step: int
    """Which micro-batch of it."""
    consumed: int
    """Samples that all ranks together have consumed once this micro-batch is done."""


@dataclass(frozen=True, kw_only=True)
class LoaderMetrics:
    """Totals of a loader since it was made."""

    bytes_read: int
    samples: int
    wait_s: float
    """Time the training loop spent waiting for batches."""


class _Pending(NamedTuple):
    """A micro-batch that threads are filling in."""

    plan: BatchPlan
    images: torch.Tensor
    labels: torch.Tensor
    shown: torch.Tensor
    """The plan's samples, but for those that others take the place of."""
    futures: list[Future[list[str]]]
    """Each with the bad samples met on the way."""


class TrainLoader:
    """An endless iterator of this rank's micro-batches, from global batch `start_step` on.

    Each step gives B / `micro_batch` of them, in turn; micro-batch k covers lanes k*G .. (k+1)*G-1 of the batch, of
    which this rank has those with lane % world.size == world.rank, in lane order. Errors of the threads (DataError,
    StorageError, InputError) come out of `next`. Close it, or use it as a context manager.

    Up to `max_bad_samples` samples that can't be decoded are replaced by those that `substitutes` names, whose ids the
    batch then holds; one more is a DataError.

    `memory_bytes` bounds the blocks held and on their way; where it is too small for the window, single samples are
    read instead, one at a time for each of `threads`. Decoded batches come on top.
    `lookahead` micro-batches are prepared ahead, and the blocks of as many again are on their way.
    `pin_memory`: batches lie in page-locked memory, for copies to a GPU that don't wait.
    """

    def __init__(
        self,
        store: Store,
        index: ShardIndex,
        order: Order,
        *,
        world: World,
        transform: TransformConfig,
        seed: int,
        start_step: int = 0,
        micro_batch: int | None = None,
        threads: int = 1,
        lookahead: int = 4,
        memory_bytes: int = MEMORY_BYTES,
        max_bad_samples: int = 0,
        cache: NodeCache | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.micro_batch = order.batch_size if micro_batch is None else micro_batch
        for name, value, least in (("threads", threads, 1), ("lookahead", lookahead, 1), ("start_step", start_step, 0)):
            if value < least:
                raise InputError(f"{name}: {value} is out of range: give at least {least}")
        if self.micro_batch < 1 or order.batch_size % self.micro_batch:
            raise InputError(f"micro_batch: {micro_batch} does not divide the batch size {order.batch_size}")
        if order.num_samples != len(index):
            raise InputError(f"order: is of {order.num_samples} samples, the split {index.split!r} has {len(index)}")
        self.order = order
        self.world = world
        self.transform = transform
        self.seed = seed
        self._lookahead = lookahead
        self._cancelled = threading.Event()
        self._reader = SampleReader(store, index, cache, self._cancelled)
        self._readers = ThreadPoolExecutor(NUM_READERS, "encnet-read")
        self._decoders = ThreadPoolExecutor(threads, "encnet-decode", initializer=cv2.setNumThreads, initargs=(0,))
        num_bytes = partial(block_bytes, index, order.block_bounds)
        self._cache = BlockCache(self._fetch, num_bytes, memory_bytes, self._readers)
        self._plans = plan_batches(order, world, self.micro_batch, start_step)
        self._num_planned = plans_ahead(order, self.micro_batch)
        self._planned: deque[BatchPlan] = deque()
        self._requested: deque[BatchPlan] = deque()
        self._pending: deque[_Pending] = deque()
        self._pin_memory = pin_memory
        self._bad = BadSamples(max_bad_samples)
        self._samples = 0
        self._wait_s = 0.0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        while len(self._pending) <= self._lookahead:
            while len(self._requested) <= self._lookahead:
                self._requested.append(self._request())
            self._pending.append(self._begin(self._requested.popleft()))
        pending = self._pending.popleft()
        began = time.perf_counter()
        faults = [fault for future in pending.futures for fault in future.result()]
        self._wait_s += time.perf_counter() - began
        self._bad.add(faults)
        for block in pending.plan.blocks.tolist():
            self._cache.used(block)
        self._samples += len(pending.futures)
        return self._batch(pending)

    @property
    def metrics(self) -> LoaderMetrics:
        """What it has done so far."""
        return LoaderMetrics(bytes_read=self._reader.bytes_read, samples=self._samples, wait_s=self._wait_s)

    @property
    def bad_samples(self) -> list[str]:
        """A line for each sample of the batches given so far that could not be decoded: shard, key and reason."""
        return self._bad.found

    def close(self) -> None:
        """Stop the threads: reads end, also those that wait for a store that is away; decoding is finished."""
        self._cancelled.set()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._decoders.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _request(self) -> BatchPlan:
        """The next plan, its blocks being fetched. What is planned beyond it tells which blocks to keep."""
        while len(self._planned) <= self._num_planned:
            self._planned.append(next(self._plans))
            self._cache.expect(self._planned[-1].blocks)
        plan = self._planned.popleft()
        for block in plan.blocks.tolist():
            self._cache.get(block)
        return plan

    def _begin(self, plan: BatchPlan) -> _Pending:
        """Have the plan's samples decoded and augmented into arrays of their own."""
        height, width = self.transform.crop_size
        rows, pin = len(plan.samples), self._pin_memory
        images = torch.empty((rows, height, width, 3), dtype=torch.uint8, pin_memory=pin)
        labels = torch.empty((rows, height, width), dtype=torch.uint8, pin_memory=pin)
        pending = _Pending(plan, images, labels, torch.from_numpy(plan.samples.copy()), [])
        for row, block in enumerate(plan.blocks.tolist()):
            pending.futures.append(self._decoders.submit(self._fill, pending, row, self._cache.get(block)))
        return pending

    def _fetch(self, block: int) -> memoryview:
        first, stop = self.order.block_bounds[block : block + 2].tolist()
        return self._reader.read(first, stop)

    def _fill(self, pending: _Pending, row: int, block: Future[memoryview] | None) -> list[str]:
        """On a thread: one sample into its row, or the first of its substitutes that can be decoded."""
        sample, epoch = int(pending.plan.samples[row]), int(pending.plan.epochs[row])
        shown, image, label, faults = self._decode(sample, epoch, block)
        rng = augment_rng(self.seed, epoch, sample)
        pending.shown[row] = shown
        augment(image, label, self.transform, rng, out=(pending.images[row].numpy(), pending.labels[row].numpy()))
        return faults

    def _decode(self, sample: int, epoch: int, block: Future[memoryview] | None) -> tuple[int, Image, Label, list[str]]:
        """The sample or a substitute for it, and what was bad on the way; no more than are allowed are tried."""
        faults: list[str] = []
        others = substitutes(self.seed, epoch, sample, self.order.num_samples)
        for shown in chain([sample], islice(others, self._bad.limit)):
            try:
                return shown, *self._load(shown, block if shown == sample else None), faults
            except BadSample as fault:
                faults.append(str(fault))
        raise too_many(faults, self._bad.limit)

    def _load(self, sample: int, block: Future[memoryview] | None) -> tuple[Image, Label]:
        """A sample from its block; by itself where it has none."""
        if block is None:
            return self._reader.load(sample)
        index = self._reader.index
        bounds = self.order.block_bounds
        first = int(bounds[np.searchsorted(bounds, sample, side="right") - 1])
        begin = int(index.offset[sample] - index.offset[first])
        return self._reader.decode(sample, block.result()[begin : begin + int(index.length[sample])])

    def _batch(self, pending: _Pending) -> Batch:
        plan = pending.plan
        return Batch(
            images=pending.images,
            labels=pending.labels,
            positions=torch.from_numpy(plan.lanes),
            sample_ids=pending.shown,
            step=plan.step,
            micro_step=plan.micro_step,
            consumed=plan.step * self.order.batch_size + (plan.micro_step + 1) * self.micro_batch,
        )
