"""What goes into each of a rank's batches, step by step: pure functions of (order, world, micro-batch size, step)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from pipeline.order import Ints, Order
from pipeline.shards import ShardIndex
from pipeline.world import World

STEPS_AT_ONCE = 64
"""Steps that are planned together, which costs less than one at a time."""


class BatchPlan(NamedTuple):
    """A rank's part of a micro-batch; arrays have one entry a sample, in lane order."""

    step: int
    micro_step: int
    lanes: Ints
    samples: Ints
    blocks: Ints
    """That hold the samples."""
    epochs: Ints


def plan_batches(order: Order, world: World, micro_batch: int, start_step: int) -> Iterator[BatchPlan]:
    """The rank's part of all micro-batches from the first of `start_step` on, without end."""
    size, bounds = order.batch_size, order.block_bounds
    lanes = np.array(world.lanes(0, size), np.int64)
    cuts = np.searchsorted(lanes, np.arange(micro_batch, size, micro_batch))
    for first in count(start_step, STEPS_AT_ONCE):
        positions = np.arange(first, first + STEPS_AT_ONCE)[:, None] * size + lanes
        samples = order.at(positions.ravel()).reshape(positions.shape)
        blocks = np.searchsorted(bounds, samples, side="right") - 1
        epochs = positions // order.num_samples
        for row, of_step in enumerate(zip(samples, blocks, epochs, strict=True)):
            parts = zip(*(np.split(column, cuts) for column in (lanes, *of_step)), strict=True)
            for micro_step, part in enumerate(parts):
                yield BatchPlan(first + row, micro_step, *part)


def plans_ahead(order: Order, micro_batch: int) -> int:
    """How many plans ahead a block's next use shows, if it has one within its run of the lane.

    The samples of a block stand side by side in its lane, each moved by less than a window either way.
    """
    steps = int(np.diff(order.block_bounds).max()) + 2 * order.window
    return steps * order.batch_size // micro_batch


def block_bytes(index: ShardIndex, bounds: Ints, block: int) -> int:
    """The size of a block."""
    first, last = int(bounds[block]), int(bounds[block + 1]) - 1
    return int(index.offset[last]) + int(index.length[last]) - int(index.offset[first])
