"""Epochs through the real loader, to be compared to the last bit."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets import context_scenes
from pipeline.loader import TrainLoader
from pipeline.order import Order, plan_blocks
from pipeline.shard_writer import write_dataset
from pipeline.shards import read_index
from pipeline.storage import open_store
from pipeline.transforms import TransformConfig
from pipeline.world import World

BATCH_SIZE = 8


@dataclass
class Epoch:
    """What a loader gave in one pass over the data set, in order."""

    samples: list[int]
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    seconds: float


def open_epoch(uri: str, *, block_bytes: int = 16_000) -> tuple[TrainLoader, int]:
    """The real loader, and the number of batches of an epoch."""
    store = open_store(uri)
    index = read_index(store, "train")
    blocks = plan_blocks(index.shard, index.offset, index.length, block_bytes)
    order = Order(blocks, seed=1, batch_size=BATCH_SIZE, window=8)
    transform = TransformConfig(crop_size=(64, 64))
    loader = TrainLoader(store, index, order, world=World(), transform=transform, seed=1)
    return loader, len(index) // BATCH_SIZE


def read_epoch(uri: str, *, pause_s: float = 0.0, block_bytes: int = 16_000) -> Epoch:
    """One epoch through the real loader; `pause_s` is how long the training loop takes for a step."""
    began = time.monotonic()
    loader, num_batches = open_epoch(uri, block_bytes=block_bytes)
    batches = []
    with loader:
        for _ in range(num_batches):
            batches.append(next(loader))
            time.sleep(pause_s)
    return Epoch(
        samples=[sample for batch in batches for sample in batch.sample_ids.tolist()],
        images=np.concatenate([batch.images.numpy() for batch in batches]),
        labels=np.concatenate([batch.labels.numpy() for batch in batches]),
        seconds=time.monotonic() - began,
    )


def assert_same(epoch: Epoch, undisturbed: Epoch) -> None:
    """Each sample once, in the same order, bit for bit."""
    assert sorted(epoch.samples) == list(range(len(epoch.samples)))
    assert epoch.samples == undisturbed.samples
    assert np.array_equal(epoch.images, undisturbed.images)
    assert np.array_equal(epoch.labels, undisturbed.labels)


def write_scenes(uri: str, count: int, num_val: int = 0) -> None:
    """Made-up street scenes."""
    splits = {"train": count} | ({"val": num_val} if num_val else {})
    write_dataset(
        open_store(uri),
        {split: context_scenes.samples(split, number, seed=0) for split, number in splits.items()},
        name="scenes",
        version="1",
        classes=context_scenes.CLASSES,
        palette=context_scenes.PALETTE,
        samples_per_shard=50,
    )
