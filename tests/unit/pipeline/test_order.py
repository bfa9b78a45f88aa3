"""The order of samples: permutations, lanes, locality."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.order import Order, plan_blocks
from pipeline.world import World
from tests.benchmarks.order import SMALL, Scale, first_batch, made_up_index, qualities

sizes = st.lists(st.integers(1, 7), min_size=1, max_size=12)


def _bounds(block_sizes: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(block_sizes)]).astype(np.int64)


@st.composite
def orders(draw: st.DrawFn, sizes: st.SearchStrategy[list[int]] = sizes) -> Order:
    return Order(
        _bounds(draw(sizes)),
        seed=draw(st.integers(0, 2**32)),
        batch_size=draw(st.integers(1, 9)),
        window=draw(st.integers(1, 20)),
    )


def _slow_epoch(order: Order, epoch: int) -> list[int]:
    """An epoch's permutation, sample by sample as the module's docstring tells it."""
    draws = np.random.Philox(np.random.SeedSequence((order.seed, epoch, 0)))
    blocks = list(pairwise(order.block_bounds.tolist()))
    shuffled = [block for _, block in sorted(zip(draws.random_raw(len(blocks)).tolist(), blocks, strict=True))]
    run = [sample for first, stop in shuffled for sample in range(first, stop)]
    moves = [(int(draws.random_raw()) >> 11) / 2**53 * order.window for _ in run]
    positions = range(epoch * len(run), (epoch + 1) * len(run))
    epoch_order = [-1] * len(run)
    taken = 0
    for lane in range(order.batch_size):
        ours = [position for position in positions if position % order.batch_size == lane]
        stretch = range(taken, taken + len(ours))
        for position, place in zip(ours, sorted(stretch, key=lambda place: place + moves[place]), strict=True):
            epoch_order[position - positions.start] = run[place]
        taken += len(ours)
    return epoch_order


@given(orders(), st.integers(0, 5))
def test_an_epoch_is_what_the_words_say(order: Order, epoch: int) -> None:
    assert order.epoch(epoch).tolist() == _slow_epoch(order, epoch)


@settings(max_examples=10, deadline=None)
@given(orders(st.lists(st.integers(1, 30), min_size=60, max_size=90)), st.integers(0, 3))
def test_strips_of_long_lanes_fit_together(order: Order, epoch: int) -> None:
    assert order.epoch(epoch).tolist() == _slow_epoch(order, epoch)


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


@given(orders(), st.integers(1, 12), st.integers(0, 40))
def test_a_batch_is_the_same_on_any_number_of_ranks(order: Order, world_size: int, step: int) -> None:
    """Whether or not the ranks divide the batch, and though each looks at its own lanes alone."""
    first = step * order.batch_size
    batch = np.full(order.batch_size, -1)
    for rank in range(world_size):
        alone = Order(order.block_bounds, seed=order.seed, batch_size=order.batch_size, window=order.window)
        lanes = np.array(World(rank, world_size).lanes(0, order.batch_size), np.int64)
        assert (batch[lanes] == -1).all()
        batch[lanes] = alone.at(first + lanes)
    assert batch.tolist() == order.positions(first, first + order.batch_size).tolist()


@given(orders(), st.integers(0, 100))
def test_resuming_gives_the_tail(order: Order, consumed: int) -> None:
    whole = order.positions(0, consumed + 30)
    again = Order(order.block_bounds, seed=order.seed, batch_size=order.batch_size, window=order.window)
    assert again.positions(consumed, consumed + 30).tolist() == whole[consumed:].tolist()


@given(orders(), st.lists(st.integers(0, 200), max_size=20))
def test_positions_may_be_asked_for_in_any_order(order: Order, positions: list[int]) -> None:
    assert order.at(np.array(positions, np.int64)).tolist() == [order.sample_at(position) for position in positions]


@given(orders(), st.integers(1, 9), st.integers(0, 3))
def test_ranks_share_the_blocks_out(order: Order, world_size: int, epoch: int) -> None:
    """Each block is one rank's, but for those that the ends of the lanes' runs cut in two."""
    block_of = np.repeat(np.arange(len(order.block_bounds) - 1), np.diff(order.block_bounds))
    reads = 0
    for rank in range(world_size):
        lanes = World(rank, world_size).lanes(0, order.batch_size)
        reads += len({int(block) for lane in lanes for block in block_of[order.lane(epoch, lane)]})
    assert reads <= len(order.block_bounds) - 1 + order.batch_size - 1


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


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_epochs_and_seeds_differ(seed: int, batch_size: int) -> None:
    order, other = (Order(np.arange(0, 101, 5), seed=number, batch_size=batch_size) for number in (seed, seed + 1))
    seen = {tuple(which.epoch(epoch)) for which in (order, other) for epoch in range(3)}
    assert len(seen) == 6


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


def test_the_order_shuffles_nearly_as_well_as_a_full_permutation() -> None:
    measured = qualities(num_samples=4_000, per_block=10, epochs=4)
    ours, full = measured["window 64"], measured["full permutation"]
    assert measured["as stored"].rank_correlation == pytest.approx(1)
    assert ours.rank_correlation < 0.15
    assert ours.together < 2 * full.together
    assert ours.near < 0.25 < 0.8 < measured["window 1"].near


def test_a_rank_of_many_holds_no_permutation() -> None:
    """2 GiB for 100 million samples are 21 bytes each; one list of all samples would be 8."""
    scale = Scale(samples=1_000_000, shards=1_000, ranks=1024)
    index = made_up_index(scale)
    first_batch(SMALL, made_up_index(SMALL))
    tracemalloc.start()
    try:
        planned = first_batch(scale, index)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(planned.order.block_bounds) > 100_000
    assert held < 6 * scale.samples
    assert peak < 8 * scale.samples
