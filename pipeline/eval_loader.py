"""Evaluation's batches: every sample exactly once over all ranks, in storage order, at its own size.

Each rank has neighbours, so that it reads them in blocks. What is counted over all samples does not depend on that.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.node_cache import NodeCache
from pipeline.order import BLOCK_BYTES, plan_blocks
from pipeline.sample_reader import NUM_READERS, SampleReader
from pipeline.shards import ShardIndex
from pipeline.storage import Store
from pipeline.transforms import Image, Label
from pipeline.world import World


class EvalBatch(NamedTuple):
    """Samples of one size."""

    images: torch.Tensor
    """(n, H, W, 3) uint8 RGB."""
    labels: torch.Tensor
    """(n, H, W) uint8 train ids, 255 = ignore."""
    sample_ids: torch.Tensor
    """(n,) int64: rows of the split's index."""


def plan_groups(index: ShardIndex, share: range, batch_size: int) -> list[NDArray[np.int64]]:
    """The samples of each of the batches of a rank's share, in order: neighbours of one size share a batch."""
    groups: list[list[int]] = []
    size: tuple[int, int] | None = None
    for sample in share:
        sample_size = (int(index.height[sample]), int(index.width[sample]))
        if sample_size != size or len(groups[-1]) == batch_size:
            groups.append([])
            size = sample_size
        groups[-1].append(sample)
    return [np.array(group, np.int64) for group in groups]


class EvalLoader:
    """This rank's share of a split, as often as it is iterated; `len` is the number of its batches.

    Errors of the threads (DataError, StorageError, InputError) come out of the iteration. Threads live as long as one
    iteration does. `lookahead` batches are prepared ahead, their blocks of up to `block_bytes` read side by side; no
    more than they are held.
    """

    def __init__(
        self,
        store: Store,
        index: ShardIndex,
        *,
        world: World,
        batch_size: int = 1,
        threads: int = 1,
        lookahead: int = 4,
        block_bytes: int = BLOCK_BYTES,
        cache: NodeCache | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("threads", threads), ("lookahead", lookahead)):
            if value < 1:
                raise InputError(f"{name}: {value} is out of range: give at least 1")
        self._store = store
        self._index = index
        self._cache = cache
        share = world.share(len(index))
        rows = slice(share.start, share.stop)
        blocks = plan_blocks(index.shard[rows], index.offset[rows], index.length[rows], block_bytes)
        self._block_bounds = share.start + blocks
        self._groups = plan_groups(index, share, batch_size)
        self._threads = threads
        self._lookahead = lookahead

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[EvalBatch]:
        readers = ThreadPoolExecutor(NUM_READERS, "encnet-eval-read")
        decoders = ThreadPoolExecutor(self._threads, "encnet-eval", initializer=cv2.setNumThreads, initargs=(0,))
        cancelled = threading.Event()
        reader = SampleReader(self._store, self._index, self._cache, cancelled)
        samples = self._samples(reader, readers)
        pending: deque[tuple[NDArray[np.int64], list[Future[tuple[Image, Label]]]]] = deque()
        try:
            for group in self._groups:
                decoded = [decoders.submit(_decode, reader, *sample) for sample in islice(samples, len(group))]
                pending.append((group, decoded))
                if len(pending) > self._lookahead:
                    yield _collate(*pending.popleft())
            while pending:
                yield _collate(*pending.popleft())
        finally:
            cancelled.set()
            decoders.shutdown(wait=False, cancel_futures=True)
            readers.shutdown(wait=True, cancel_futures=True)
            decoders.shutdown(wait=True)

    def _samples(
        self, reader: SampleReader, readers: ThreadPoolExecutor
    ) -> Iterator[tuple[int, int, Future[memoryview]]]:
        """(sample, first of its block, block) for each of the share; a block is asked for with its first sample."""
        for first, stop in pairwise(self._block_bounds.tolist()):
            block = readers.submit(reader.read, first, stop)
            for sample in range(first, stop):
                yield sample, first, block


def _decode(reader: SampleReader, sample: int, first: int, block: Future[memoryview]) -> tuple[Image, Label]:
    index = reader.index
    begin = int(index.offset[sample] - index.offset[first])
    return reader.decode(sample, block.result()[begin : begin + int(index.length[sample])])


def _collate(group: NDArray[np.int64], futures: list[Future[tuple[Image, Label]]]) -> EvalBatch:
    images, labels = zip(*(future.result() for future in futures), strict=True)
    return EvalBatch(
        images=torch.from_numpy(np.stack(images)),
        labels=torch.from_numpy(np.stack(labels)),
        sample_ids=torch.from_numpy(group),
    )
