"""A small data set of random pictures whose colour tells the label, for the tests of the data plane."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.shard_writer import write_dataset
from pipeline.shards import DatasetInfo, Sample
from pipeline.storage import LocalStore, Versioned

CLASSES = ("black", "red", "green", "blue")
PALETTE = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
SIZES = ((40, 56), (40, 56), (48, 40), (64, 64))


def patches(shape: tuple[int, int], rng: np.random.Generator, size: int = 8) -> NDArray[np.uint8]:
    """(H, W) labels in patches of `size` x `size` pixels."""
    coarse = rng.integers(0, len(CLASSES), (-(-shape[0] // size), -(-shape[1] // size)), dtype=np.uint8)
    return np.kron(coarse, np.ones((size, size), np.uint8))[: shape[0], : shape[1]]


def colours(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) labels -> (H, W, 3) their colours."""
    return np.array(PALETTE, np.uint8)[label]


def png(image: NDArray[np.uint8]) -> bytes:
    """RGB or one channel -> the bytes of a PNG."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".png", pixels)[1].tobytes()


def make_samples(count: int, seed: int = 0, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Sample]:
    """`count` PNG samples of varying size."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        label = patches(sizes[number // 2 % len(sizes)], rng)
        sample = Sample(
            key=f"s{number:04d}",
            image=png(colours(label)),
            extension="png",
            label=label,
            source=f"images/s{number:04d}.png",
        )
        samples.append(sample)
    return samples


def write_made_up(root: Path, num_train: int = 23, num_val: int = 7, samples_per_shard: int = 10) -> DatasetInfo:
    """Write a data set of two splits below `root`."""
    return write_dataset(
        LocalStore(root=root),
        {"train": make_samples(num_train), "val": make_samples(num_val, seed=1)},
        name="made-up",
        version="1",
        classes=CLASSES,
        palette=PALETTE,
        samples_per_shard=samples_per_shard,
    )


Watch = Callable[[str, int, int | None, Callable[[], Versioned]], Versioned]


@dataclass(frozen=True, kw_only=True)
class WatchedStore(LocalStore):
    """A local store each of whose reads is `watch(key, offset, length, read)`, which gives what `read()` does."""

    watch: Watch

    def read_versioned(
        self,
        key: str,
        offset: int = 0,
        length: int | None = None,
        version: str = "",
        cancelled: threading.Event | None = None,
    ) -> Versioned:
        return self.watch(key, offset, length, partial(super().read_versioned, key, offset, length, version, cancelled))


def noting_store(root: Path) -> tuple[WatchedStore, list[tuple[str, int, int | None]]]:
    """A local store, and the (key, offset, length) of each of its reads, as they begin."""
    reads: list[tuple[str, int, int | None]] = []

    def watch(key: str, offset: int, length: int | None, read: Callable[[], Versioned]) -> Versioned:
        reads.append((key, offset, length))
        return read()

    return WatchedStore(root=root, watch=watch), reads


def read_with_webdataset(shards: list[Path]) -> list[dict[str, Any]]:
    """The samples that webdataset itself finds in the shards."""
    import webdataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the files it has read open
        samples = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False))
        gc.collect()
    return samples
