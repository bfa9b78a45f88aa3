"""Which sample stands at which position: pure functions of (blocks, seed, batch size, window).

Positions 0, 1, 2, ... run on for ever. With N samples and batches of B, position p is sample perm(seed, p // N)[p % N],
global batch t is positions t*B .. t*B+B-1, and lane i of B supplies position t*B+i. Who reads a lane is of no concern
here, so the order is the same for any number of workers.

An epoch's permutation keeps locality: blocks (neighbouring samples of a shard, one read each) are shuffled, laid end
to end, cut into B runs, one a lane, and each run is shuffled within a window. So a lane walks through its blocks one
after the other, and each block is read about once.

Only the places asked for are worked out, from an epoch's shuffled blocks and random numbers that can be drawn from the
middle: what a rank of many holds grows with the blocks, not with the samples.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

Ints = NDArray[np.int64]
BLOCK_BYTES = 1 << 20
WINDOW = 64
STRIP = 256
"""Neighbouring places of a lane that are worked out at once, at least."""
SHARDS_AT_ONCE = 2048
"""Few enough for what is looked at of their index to stay in the processor's caches."""
_ORDER_STREAM = 0
_DRAWS_PER_COUNT = 4
"""Numbers of 64 bits that Philox makes of one value of its counter."""


def plan_blocks(
    shard: NDArray[np.integer], offset: NDArray[np.integer], length: NDArray[np.integer], block_bytes: int = BLOCK_BYTES
) -> Ints:
    """Cut samples, in storage order, into blocks: block b is samples bounds[b] .. bounds[b+1]-1; (num_blocks + 1,).

    A block lies in one shard and spans at most `block_bytes`, or is a single larger sample.
    """
    if block_bytes < 1:
        raise InputError(f"block_bytes: {block_bytes} is out of range: give at least 1")
    starts = np.append(0, np.flatnonzero(shard[1:] != shard[:-1]) + 1)
    stops = np.append(starts[1:], len(shard))
    groups = [
        _cut_shards(offset, length, starts[first:][:SHARDS_AT_ONCE], stops[first:][:SHARDS_AT_ONCE], block_bytes)
        for first in range(0, len(starts), SHARDS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(1, np.int64), *groups])


def _cut_shards(
    offset: NDArray[np.integer], length: NDArray[np.integer], starts: Ints, shard_stops: Ints, block_bytes: int
) -> Ints:
    """Where the blocks of neighbouring shards end, in order; one more block of each shard a turn."""
    stops = [np.empty(0, np.int64)]
    while (unfinished := starts < shard_stops).any():
        shard_stops = shard_stops[unfinished]
        starts = _block_stops(offset, length, starts[unfinished], shard_stops, block_bytes)
        stops.append(starts)
    return np.sort(np.concatenate(stops))


def _block_stops(
    offset: NDArray[np.integer], length: NDArray[np.integer], starts: Ints, shard_stops: Ints, block_bytes: int
) -> Ints:
    """Where the blocks that begin at `starts` end: bisected in all shards at once."""
    limit = offset[starts] + block_bytes
    low, high = starts + 1, shard_stops
    while (undecided := low < high).any():
        middle = np.minimum((low + high) // 2, len(offset) - 1)
        fits = offset[middle] + length[middle] <= limit
        low = np.where(undecided & fits, middle + 1, low)
        high = np.where(undecided & ~fits, middle, high)
    return low


class _Epoch(NamedTuple):
    """What all lanes of an epoch have in common."""

    blocks: Ints
    """(num_blocks,): the blocks, shuffled."""
    starts: Ints
    """(num_blocks + 1,): where each of them begins, and the last ends, when they are laid end to end."""
    key: NDArray[np.uint64]
    """Of the random numbers: the first num_blocks shuffled the blocks, one more for each sample moves it."""

    def draw(self, first: int, count: int) -> NDArray[np.uint64]:
        """Random numbers first .. first+count-1."""
        counter, skipped = divmod(first, _DRAWS_PER_COUNT)
        bits = np.random.Philox(key=self.key, counter=counter)
        # Raw bits, since numpy may change how a Generator shuffles from one version to the next.
        return np.asarray(bits.random_raw(skipped + count)[skipped:], np.uint64)


class Order:
    """The order of a split's samples.

    `block_bounds` is that of `plan_blocks`. `window` is in samples: in its lane, each stands less than that many places
    from where its block put it. InputError when a size is out of range or there are no samples. Safe to use from many
    threads.
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
        self._strip_length = max(STRIP, window)
        # The tail of one epoch and the head of the next are looked at by turns.
        self._epoch = lru_cache(maxsize=2)(self._shuffle_blocks)
        self._strip = lru_cache(maxsize=2 * batch_size)(self._shuffle_strip)

    def at(self, positions: Ints) -> Ints:
        """The samples at `positions`, (n,) -> (n,): only lanes that these are in cost anything."""
        epochs = positions // self.num_samples
        lanes = positions % self.batch_size
        strips, places = np.divmod(positions // self.batch_size - self._first_row(epochs, lanes), self._strip_length)
        samples = np.empty(len(positions), np.int64)
        order = np.lexsort((strips, lanes, epochs))
        keys = np.stack([epochs, lanes, strips])[:, order]
        cuts = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
        for members in np.split(order, cuts) if len(order) else ():
            first = members[0]
            strip = self._strip(int(epochs[first]), int(lanes[first]), int(strips[first]))
            samples[members] = strip[places[members]]
        return samples

    def positions(self, first: int, stop: int) -> Ints:
        """The samples at positions first .. stop-1."""
        return self.at(np.arange(first, stop))

    def sample_at(self, position: int) -> int:
        """The sample at a position."""
        return int(self.at(np.array([position]))[0])

    def epoch(self, epoch: int) -> Ints:
        """perm(seed, epoch): (num_samples,), which holds every sample once."""
        return self.positions(epoch * self.num_samples, (epoch + 1) * self.num_samples)

    def lane(self, epoch: int, lane: int) -> Ints:
        """The samples that lane `lane` of the batch supplies in an epoch, in order."""
        first = epoch * self.num_samples
        return self.at(np.arange(first + (lane - first) % self.batch_size, first + self.num_samples, self.batch_size))

    def _first_row(self, epochs: Ints, lanes: Ints) -> Ints:
        """The first batch in which each lane supplies a sample of that epoch."""
        return -((lanes - epochs * self.num_samples) // self.batch_size)

    def _run_start(self, epoch: int, lane: int) -> int:
        """Where a lane's run begins among the blocks laid end to end.

        Lane i owns the positions p with p % B == i; an epoch need not begin at lane 0 nor give all lanes the same.
        """
        least, longer = divmod(self.num_samples, self.batch_size)
        head = epoch * self.num_samples % self.batch_size  # lanes head .. head+longer-1 (mod B) have one more
        before = max(0, min(lane, head + longer) - head)
        wrapped = min(lane, max(0, head + longer - self.batch_size))
        return lane * least + before + wrapped

    def _shuffle_blocks(self, epoch: int) -> _Epoch:
        seeded = np.random.Philox(np.random.SeedSequence((self.seed, epoch, _ORDER_STREAM)))
        blocks = np.argsort(seeded.random_raw(len(self.block_bounds) - 1), kind="stable")
        starts = np.zeros(len(self.block_bounds), np.int64)
        np.cumsum(np.diff(self.block_bounds)[blocks], out=starts[1:])
        return _Epoch(blocks, starts, seeded.state["state"]["key"])

    def _shuffle_strip(self, epoch: int, lane: int, strip: int) -> Ints:
        """The samples at places strip * strip_length ... of a lane."""
        plan = self._epoch(epoch)
        begin, end = self._run_start(epoch, lane), self._run_start(epoch, lane + 1)
        first = begin + strip * self._strip_length
        stop = min(first + self._strip_length, end)
        # Each sample moves back by less than `window` places, and its lane is sorted again: these can come to stand
        # here, and whatever lies before them can't.
        low, high = max(begin, first - self.window + 1), min(end, stop + self.window - 1)
        moves = (plan.draw(len(plan.blocks) + low, high - low) >> np.uint64(11)) * 2.0**-53 * self.window
        run = low + np.argsort(np.arange(low, high) + moves, kind="stable")[first - low : stop - low]
        block = np.searchsorted(plan.starts, run, side="right") - 1
        return np.asarray(self.block_bounds[plan.blocks[block]] + run - plan.starts[block], np.int64)
