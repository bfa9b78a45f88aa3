"""The order of samples: how well it shuffles, and what planning costs one rank of many.

python -m tests.benchmarks.order [--small]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from rich.table import Table

from pipeline.batch_plan import BatchPlan, block_bytes, plan_batches, plans_ahead
from pipeline.block_cache import BlockCache
from pipeline.index_table import KeyColumn
from pipeline.order import WINDOW, Ints, Order, plan_blocks
from pipeline.shards import ShardIndex
from pipeline.world import World
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


def made_up_index(scale: Scale) -> ShardIndex:
    """Samples of 64 to 160 KB, as photos of 683 x 512 are; what planning does not look at takes no memory."""
    rng = np.random.default_rng(0)
    per_shard = scale.samples // scale.shards
    length = rng.integers(64, 160, scale.samples, np.int32) * np.int32(1024)
    offset = np.cumsum(length.reshape(scale.shards, per_shard), axis=1, dtype=np.int64).reshape(-1)
    np.subtract(offset, length, out=offset)
    nothing = np.broadcast_to(np.int32(0), scale.samples)
    return ShardIndex(
        split="train",
        shard_names=(),
        keys=KeyColumn.of(()),
        shard=np.repeat(np.arange(scale.shards, dtype=np.int32), per_shard),
        offset=offset,
        length=length,
        width=nothing,
        height=nothing,
        checksum=np.broadcast_to(np.uint64(0), scale.samples),
    )


class Planned(NamedTuple):
    """What a rank's loader holds before it reads anything."""

    order: Order
    cache: BlockCache
    plans: Iterator[BatchPlan]
    ahead: list[BatchPlan]


def first_batch(scale: Scale, index: ShardIndex) -> Planned:
    """All that the loader of one rank does until it can ask for the blocks of its first batch."""
    order = Order(
        plan_blocks(index.shard, index.offset, index.length), seed=0, batch_size=scale.ranks * scale.lanes_a_rank
    )
    num_bytes = partial(block_bytes, index, order.block_bounds)
    cache = BlockCache(_fetch_nothing, num_bytes, 0, ThreadPoolExecutor(1))
    plans = plan_batches(order, World(0, scale.ranks), order.batch_size, 0)
    ahead = list(islice(plans, plans_ahead(order, order.batch_size)))
    for plan in ahead:
        cache.expect(plan.blocks)
    return Planned(order, cache, plans, ahead)


def _fetch_nothing(block: int) -> memoryview:
    raise AssertionError(f"block {block} is planned, not read")


def prepare_first_batch(scale: Scale) -> measure.Call:
    """`first_batch` of an index in memory, warmed up at a small size."""
    first_batch(SMALL, made_up_index(SMALL))
    return partial(first_batch, scale, made_up_index(scale))


def step_seconds(planned: Planned, steps: int) -> Iterator[float]:
    """How long the loader of one rank takes to plan, step after step."""
    for _ in range(steps):
        began = time.perf_counter()
        planned.cache.expect(next(planned.plans).blocks)
        yield time.perf_counter() - began


def planning(scale: Scale, steps: int) -> Table:
    """Seconds and memory of one rank."""
    peak = measure.extra_peak_bytes(prepare_first_batch, scale)
    index = made_up_index(scale)
    began = time.perf_counter()
    planned = first_batch(scale, index)
    first = time.perf_counter() - began
    seconds = list(step_seconds(planned, steps))
    title = f"Planning on one of {scale.ranks:,} ranks: {scale.samples:,} samples in {scale.shards:,} shards"
    table = Table("what", "seconds", "MiB besides the index", title=title)
    columns_mib = sum(column.nbytes for column in (index.shard, index.offset, index.length)) / 2**20
    table.add_row("(the index's shard, offset, length)", "", f"({columns_mib:.0f})")
    table.add_row(
        f"until the first batch ({len(planned.order.block_bounds) - 1:,} blocks)",
        f"{first:.2f}",
        f"{peak / 2**20:.0f}",
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
