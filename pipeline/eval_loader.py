"""Evaluation's batches: every sample exactly once over all ranks, in storage order, at its own size."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.node_cache import NodeCache
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


def plan_groups(index: ShardIndex, world: World, batch_size: int) -> list[NDArray[np.int64]]:
    """The samples of each of a rank's batches: rows rank, rank + size, ...; neighbours of one size share a batch."""
    groups: list[list[int]] = []
    size: tuple[int, int] | None = None
    for sample in range(world.rank, len(index), world.size):
        sample_size = (int(index.height[sample]), int(index.width[sample]))
        if sample_size != size or len(groups[-1]) == batch_size:
            groups.append([])
            size = sample_size
        groups[-1].append(sample)
    return [np.array(group, np.int64) for group in groups]


class EvalLoader:
    """This rank's part of a split, as often as it is iterated; `len` is the number of its batches.

    Errors of the threads (DataError, StorageError, InputError) come out of the iteration. Threads live as long as one
    iteration does. `lookahead` batches are prepared ahead, their samples read side by side; no more than they are held.
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
        cache: NodeCache | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("threads", threads), ("lookahead", lookahead)):
            if value < 1:
                raise InputError(f"{name}: {value} is out of range: give at least 1")
        self._reader = SampleReader(store, index, cache)
        self._groups = plan_groups(index, world, batch_size)
        self._threads = threads
        self._lookahead = lookahead

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[EvalBatch]:
        readers = ThreadPoolExecutor(NUM_READERS, "encnet-eval-read")
        decoders = ThreadPoolExecutor(self._threads, "encnet-eval", initializer=cv2.setNumThreads, initargs=(0,))
        pending: deque[tuple[NDArray[np.int64], list[Future[tuple[Image, Label]]]]] = deque()
        try:
            for group in self._groups:
                runs = [readers.submit(self._reader.read, sample, sample + 1) for sample in group.tolist()]
                decoded = [
                    decoders.submit(self._load, sample, run) for sample, run in zip(group.tolist(), runs, strict=True)
                ]
                pending.append((group, decoded))
                if len(pending) > self._lookahead:
                    yield _collate(*pending.popleft())
            while pending:
                yield _collate(*pending.popleft())
        finally:
            decoders.shutdown(wait=False, cancel_futures=True)
            readers.shutdown(wait=True, cancel_futures=True)
            decoders.shutdown(wait=True)

    def _load(self, sample: int, run: Future[memoryview]) -> tuple[Image, Label]:
        return self._reader.decode(sample, run.result())


def _collate(group: NDArray[np.int64], futures: list[Future[tuple[Image, Label]]]) -> EvalBatch:
    images, labels = zip(*(future.result() for future in futures), strict=True)
    return EvalBatch(
        images=torch.from_numpy(np.stack(images)),
        labels=torch.from_numpy(np.stack(labels)),
        sample_ids=torch.from_numpy(group),
    )
