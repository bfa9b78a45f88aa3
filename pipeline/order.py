"""Which sample stands at which position: pure functions of (blocks, seed, batch size, window).

Positions 0, 1, 2, ... run on for ever. With N samples and batches of B, position p is sample perm(seed, p // N)[p % N],
global batch t is positions t*B .. t*B+B-1, and lane i of B supplies position t*B+i. Who reads a lane is of no concern
here, so the order is the same for any number of workers.

An epoch's permutation keeps locality: blocks (neighbouring samples of a shard, one read each) are shuffled, laid end
to end, cut into B runs, one a lane, and each run is shuffled within a window. So a lane walks through its blocks one
after the other, and each block is read about once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

Ints = NDArray[np.int64]
BLOCK_BYTES = 1 << 20
WINDOW = 64
_ORDER_STREAM = 0


def plan_blocks(shard: NDArray[np.integer], offset: Ints, length: Ints, block_bytes: int = BLOCK_BYTES) -> Ints:
    """Cut samples, in storage order, into blocks: block b is samples bounds[b] .. bounds[b+1]-1; (num_blocks + 1,).

    A block lies in one shard and spans at most `block_bytes`, or is a single larger sample.
    """
    if block_bytes < 1:
        raise InputError(f"block_bytes: {block_bytes} is out of range: give at least 1")
    num_samples = len(shard)
    ends = offset + length
    shard_stops = np.append(np.flatnonzero(np.diff(shard)) + 1, num_samples)
    bounds = [0]
    for stop in shard_stops.tolist():
        while (start := bounds[-1]) < stop:
            reach = int(np.searchsorted(ends[start:stop], offset[start] + block_bytes, side="right"))
            bounds.append(start + max(reach, 1))
    return np.array(bounds, np.int64)


class Order:
    """The order of a split's samples.

    `block_bounds` is that of `plan_blocks`. `window` is in samples: in its lane, each stands less than that many places
    from where its block put it. InputError when a size is out of range or there are no samples.
    """

    def __init__(self, block_bounds: Ints, *, seed: int, batch_size: int, window: int = WINDOW) -> None:
        for name, value, least in (("seed", seed, 0), ("batch_size", batch_size, 1), ("window", window, 1)):
            if value < least:
                raise InputError(f"{name}: {value} is out of range: give at least {least}")
        if len(block_bounds) < 2:
            raise InputError("order: the split holds no samples: prepare it again")
        self.block_bounds = block_bounds
        self.seed = seed
        self.batch_size = batch_size
        self.window = window
        self.num_samples = int(block_bounds[-1])
        # The tail of one epoch and the head of the next are looked at by turns.
        self.epoch = lru_cache(maxsize=3)(self._permutation)

    def positions(self, first: int, stop: int) -> Ints:
        """The samples at positions first .. stop-1."""
        epochs = range(first // self.num_samples, -(-stop // self.num_samples))
        parts = [
            self.epoch(epoch)[max(first - epoch * self.num_samples, 0) : stop - epoch * self.num_samples]
            for epoch in epochs
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def sample_at(self, position: int) -> int:
        """The sample at a position."""
        return int(self.epoch(position // self.num_samples)[position % self.num_samples])

    def lane(self, epoch: int, lane: int) -> Ints:
        """The samples that lane `lane` of the batch supplies in an epoch, in order."""
        first = (lane - epoch * self.num_samples) % self.batch_size
        return self.epoch(epoch)[first :: self.batch_size]

    def _permutation(self, epoch: int) -> Ints:
        """perm(seed, epoch): (num_samples,), which holds every sample once."""
        # Raw bits, since numpy may change how a Generator shuffles from one version to the next.
        bits = np.random.Philox(np.random.SeedSequence((self.seed, epoch, _ORDER_STREAM)))
        blocks = np.argsort(bits.random_raw(len(self.block_bounds) - 1), kind="stable")
        run = _concatenate_blocks(self.block_bounds, blocks)

        # Lane i owns the positions p with p % B == i; an epoch need not begin at lane 0 nor give all lanes the same.
        lane_of_position = (epoch * self.num_samples + np.arange(self.num_samples)) % self.batch_size
        position_by_lane = np.argsort(lane_of_position, kind="stable")
        lane_of_run = lane_of_position[position_by_lane]

        # Each sample moves back by less than `window` places, and its lane is sorted again.
        moves = (bits.random_raw(self.num_samples) >> np.uint64(11)) * 2.0**-53 * self.window
        shuffled = np.lexsort((np.arange(self.num_samples) + moves, lane_of_run))
        permutation = np.empty(self.num_samples, np.int64)
        permutation[position_by_lane] = run[shuffled]
        permutation.flags.writeable = False
        return permutation


def _concatenate_blocks(bounds: Ints, blocks: Ints) -> Ints:
    """The samples of the blocks, block after block."""
    sizes = np.diff(bounds)[blocks]
    starts = np.cumsum(sizes) - sizes
    return np.repeat(bounds[blocks] - starts, sizes) + np.arange(bounds[-1])
