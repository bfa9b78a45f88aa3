"""The order of samples: how well it shuffles, and what planning costs one rank of many.

python -m tests.benchmarks.order [--small]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from pipeline.order import WINDOW, Ints, Order, plan_blocks
from tests.benchmarks import measure

BATCH_SIZE = 16
NEAR = 4
"""Batches that count as close."""


class Quality(NamedTuple):
    """How much of the storage order is left in an epoch's order."""

    rank_correlation: float
    """Of place in storage and place in the epoch: 0 for a shuffle, 1 for none."""
    together: float
    """Share of neighbours in storage that meet in one batch."""
    near: float
    """Share of neighbours in storage whose batches are at most NEAR apart."""


def shuffle_quality(permutation: Ints, batch_size: int = BATCH_SIZE) -> Quality:
    """Measure an epoch's order, (N,), in which `permutation[p]` is the sample at position p."""
    place = np.empty(len(permutation), np.int64)
    place[permutation] = np.arange(len(permutation))
    apart = np.abs(np.diff(place // batch_size))
    correlation = np.corrcoef(np.arange(len(place)), place)[0, 1]  # Spearman's: both are ranks without ties
    return Quality(float(correlation), float(np.mean(apart == 0)), float(np.mean(apart <= NEAR)))


def qualities(num_samples: int, per_block: int, epochs: int) -> dict[str, Quality]:
    """The mean of several epochs: samples as stored, in our order, and in a full permutation."""
    bounds = np.append(np.arange(0, num_samples, per_block), num_samples)
    rng = np.random.default_rng(0)
    orders = {f"window {window}": Order(bounds, seed=0, batch_size=BATCH_SIZE, window=window) for window in (1, WINDOW)}
    measured = {"as stored": [shuffle_quality(np.arange(num_samples))]}
    for name, order in orders.items():
        measured[name] = [shuffle_quality(order.epoch(epoch)) for epoch in range(epochs)]
    measured["full permutation"] = [shuffle_quality(rng.permutation(num_samples)) for _ in range(epochs)]
    return {
        name: Quality(*(statistics.fmean(abs(value) for value in column) for column in zip(*rows, strict=True)))
        for name, rows in measured.items()
    }


class Scale(NamedTuple):
    """A large data set and those who share it."""

    samples: int
    shards: int
    ranks: int
    lanes_a_rank: int = 8


FULL = Scale(samples=100_000_000, shards=100_000, ranks=1024)
SMALL = Scale(samples=20_000, shards=20, ranks=16)


class Index(NamedTuple):
    """The columns of a split's index that the order is made of, (num_samples,) each."""

    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]


def made_up_index(scale: Scale) -> Index:
    """Samples of 64 to 160 KB, as photos of 683 x 512 are."""
    rng = np.random.default_rng(0)
    per_shard = scale.samples // scale.shards
    length = rng.integers(64, 160, scale.samples) * 1024
    offset = np.cumsum(length.reshape(scale.shards, per_shard), axis=1).reshape(-1)
    np.subtract(offset, length, out=offset)
    return Index(np.repeat(np.arange(scale.shards, dtype=np.int32), per_shard), offset, length)


def first_batch(scale: Scale, index: Index) -> Order:
    """All that one rank does until it knows the samples of its first batch; the order that it then has."""
    order = Order(plan_blocks(*index), seed=0, batch_size=scale.ranks * scale.lanes_a_rank)
    order.at(np.arange(0, order.batch_size, scale.ranks))
    return order


def prepare_first_batch(scale: Scale) -> measure.Call:
    """`first_batch` of an index in memory, warmed up at a small size."""
    first_batch(SMALL, made_up_index(SMALL))
    return partial(first_batch, scale, made_up_index(scale))


def step_seconds(scale: Scale, order: Order, steps: int) -> Iterator[float]:
    """How long one rank takes to know its samples, step after step."""
    for step in range(1, steps + 1):
        began = time.perf_counter()
        order.at(np.arange(step * order.batch_size, (step + 1) * order.batch_size, scale.ranks))
        yield time.perf_counter() - began


def planning(scale: Scale, steps: int) -> Table:
    """Seconds and memory of one rank."""
    peak = measure.extra_peak_bytes(prepare_first_batch, scale)
    index = made_up_index(scale)
    began = time.perf_counter()
    order = first_batch(scale, index)
    first = time.perf_counter() - began
    seconds = list(step_seconds(scale, order, steps))
    title = f"Planning on one of {scale.ranks:,} ranks: {scale.samples:,} samples in {scale.shards:,} shards"
    table = Table("what", "seconds", "MiB besides the index", title=title)
    columns_mib = sum(column.nbytes for column in index) / 2**20
    table.add_row("(the index's shard, offset, length)", "", f"({columns_mib:.0f})")
    table.add_row(
        f"until the first batch ({len(order.block_bounds) - 1:,} blocks)", f"{first:.2f}", f"{peak / 2**20:.0f}"
    )
    table.add_row(f"a step of {scale.lanes_a_rank} lanes, mean of {steps:,}", f"{statistics.fmean(seconds):.6f}", "")
    table.add_row("a step, slowest", f"{max(seconds):.6f}", "")
    return table


def tables(small: bool) -> list[Table]:
    """What shuffling is worth, and what it costs."""
    num_samples, per_block, epochs = (2_000, 10, 2) if small else (100_000, 10, 10)
    title = f"{num_samples:,} samples in blocks of {per_block}, batches of {BATCH_SIZE}, mean of {epochs} epochs"
    table = Table("order", "|rank correlation|", "neighbours in one batch", f"within {NEAR} batches", title=title)
    for name, quality in qualities(num_samples, per_block, epochs).items():
        table.add_row(name, *(f"{value:.5f}" for value in quality))
    return [table, planning(SMALL if small else FULL, 100 if small else 2_000)]


if __name__ == "__main__":
    measure.main(__doc__, tables)
