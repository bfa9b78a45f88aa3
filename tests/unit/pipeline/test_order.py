"""The order of samples: permutations, lanes, locality."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.order import Order, plan_blocks
from pipeline.world import World

sizes = st.lists(st.integers(1, 7), min_size=1, max_size=12)


def _bounds(block_sizes: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(block_sizes)]).astype(np.int64)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    return Order(
        _bounds(draw(sizes)),
        seed=draw(st.integers(0, 2**32)),
        batch_size=draw(st.integers(1, 9)),
        window=draw(st.integers(1, 20)),
    )


@given(orders(), st.integers(0, 5))
def test_an_epoch_holds_each_sample_once(order: Order, epoch: int) -> None:
    first = epoch * order.num_samples
    assert sorted(order.positions(first, first + order.num_samples)) == list(range(order.num_samples))


@given(orders(), st.integers(0, 40), st.integers(0, 40))
def test_ranges_agree_with_single_positions(order: Order, first: int, count: int) -> None:
    expected = [order.sample_at(position) for position in range(first, first + count)]
    assert order.positions(first, first + count).tolist() == expected


@given(orders(), st.integers(0, 3))
def test_lanes_are_the_columns_of_the_batches(order: Order, epoch: int) -> None:
    positions = range(epoch * order.num_samples, (epoch + 1) * order.num_samples)
    for lane in range(order.batch_size):
        expected = [order.sample_at(position) for position in positions if position % order.batch_size == lane]
        assert order.lane(epoch, lane).tolist() == expected


@given(orders(), st.integers(1, 5))
def test_ranks_share_a_batch_out_whole(order: Order, world_size: int) -> None:
    lanes = [lane for rank in range(world_size) for lane in World(rank, world_size).lanes(0, order.batch_size)]
    assert sorted(lanes) == list(range(order.batch_size))


@given(orders())
def test_the_same_arguments_give_the_same_order(order: Order) -> None:
    again = Order(order.block_bounds, seed=order.seed, batch_size=order.batch_size, window=order.window)
    again.positions(3 * order.num_samples, 4 * order.num_samples)  # what was asked for before must not matter
    assert again.positions(0, 30).tolist() == order.positions(0, 30).tolist()


@given(orders(), st.integers(0, 3))
def test_a_lane_walks_through_its_blocks(order: Order, epoch: int) -> None:
    """With a window of 1 nothing moves, so each block is one run in a lane, or cut between two lanes."""
    still = Order(order.block_bounds, seed=order.seed, batch_size=order.batch_size, window=1)
    block_of = np.repeat(np.arange(len(still.block_bounds) - 1), np.diff(still.block_bounds))
    lanes = [still.lane(epoch, lane) for lane in range(still.batch_size)]
    run = np.concatenate(lanes)
    visits = 1 + np.count_nonzero(np.diff(block_of[run]))
    assert visits == len(still.block_bounds) - 1
    for lane, unmoved in enumerate(lanes):
        moved = order.lane(epoch, lane)
        places = {int(sample): place for place, sample in enumerate(unmoved)}
        assert set(moved.tolist()) == set(places)
        assert all(abs(places[int(sample)] - place) < order.window for place, sample in enumerate(moved))


def test_the_order_is_this_one() -> None:
    """Runs are resumed by position: an order that changes with a version of numpy, or of ours, breaks them."""
    order = Order(_bounds([3, 2, 4, 1]), seed=7, batch_size=4, window=2)
    assert order.positions(0, 20).tolist() == [9, 8, 4, 1, 5, 7, 0, 2, 6, 3, 6, 0, 3, 9, 7, 1, 4, 5, 8, 2]


def test_epochs_and_seeds_differ() -> None:
    order = Order(np.arange(0, 101, 5), seed=0, batch_size=4)
    other = Order(np.arange(0, 101, 5), seed=1, batch_size=4)
    assert order.epoch(0).tolist() != order.epoch(1).tolist()
    assert order.epoch(0).tolist() != other.epoch(0).tolist()


def test_every_sample_comes_to_every_place() -> None:
    """The mean place of each sample over many epochs is that of a uniform shuffle."""
    order = Order(np.arange(0, 41, 4), seed=3, batch_size=4, window=8)
    places = np.array([np.argsort(order.epoch(epoch)) for epoch in range(400)])
    error = 40 / np.sqrt(12 * 400)  # the deviation of such a mean, for independent places
    assert np.abs(places.mean(axis=0) - 19.5).max() < 5 * error


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=8), min_size=1, max_size=4), st.integers(1, 120))
def test_blocks_are_neighbours_within_a_shard_and_a_size(shards: list[list[int]], block_bytes: int) -> None:
    length = np.array([size for shard in shards for size in shard], np.int64)
    offset = np.concatenate([np.cumsum([0, *shard[:-1]]) for shard in shards]).astype(np.int64)
    shard = np.repeat(np.arange(len(shards)), [len(shard) for shard in shards])
    bounds = plan_blocks(shard, offset, length, block_bytes)
    assert bounds[0] == 0
    assert bounds[-1] == len(length)
    for first, stop in pairwise(bounds.tolist()):
        assert stop > first
        assert len(set(shard[first:stop])) == 1
        assert stop - first == 1 or length[first:stop].sum() <= block_bytes
        if stop < len(length) and shard[stop] == shard[first]:
            assert length[first : stop + 1].sum() > block_bytes


@pytest.mark.parametrize(
    ("field", "value"), [("seed", -1), ("batch_size", 0), ("window", 0)], ids=["seed", "batch_size", "window"]
)
def test_sizes_out_of_range_are_named(field: str, value: int) -> None:
    arguments = {"seed": 0, "batch_size": 4, "window": 1, field: value}
    with pytest.raises(InputError, match=rf"{field}: {value} is out of range: give at least"):
        Order(_bounds([3]), **arguments)
