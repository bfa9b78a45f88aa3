"""Plans of batches: the order's samples, in lanes, in their blocks, from any step; blocks are needed again in sight."""

from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.batch_plan import STEPS_AT_ONCE, block_bytes, plan_batches, plans_ahead
from pipeline.index_table import KeyColumn
from pipeline.order import Order
from pipeline.shards import ShardIndex
from pipeline.world import World


@st.composite
def orders(draw: st.DrawFn) -> Order:
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=30))
    bounds = np.cumsum([0, *lengths])
    batch_size, window = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    return Order(bounds, seed=draw(st.integers(0, 5)), batch_size=batch_size, window=window)


@settings(deadline=None)
@given(orders(), st.integers(0, 200), st.integers(1, 5), st.data())
def test_plans_follow_the_order(order: Order, start: int, ranks: int, data: st.DataObject) -> None:
    size = order.batch_size
    micro = data.draw(st.sampled_from([each for each in range(1, size + 1) if size % each == 0]))
    world = World(data.draw(st.integers(0, ranks - 1)), ranks)
    count = 2 * size // micro
    for number, plan in enumerate(islice(plan_batches(order, world, micro, start), count)):
        step, micro_step = divmod(number, size // micro)
        assert (plan.step, plan.micro_step) == (start + step, micro_step)
        assert plan.lanes.tolist() == list(world.lanes(micro_step * micro, (micro_step + 1) * micro))
        positions = plan.step * size + plan.lanes
        assert plan.samples.tolist() == order.at(positions).tolist()
        assert plan.epochs.tolist() == (positions // order.num_samples).tolist()
        assert (order.block_bounds[plan.blocks] <= plan.samples).all()
        assert (plan.samples < order.block_bounds[plan.blocks + 1]).all()


def test_steps_planned_together_join_without_a_gap() -> None:
    order = Order(np.arange(0, 101, 10), seed=1, batch_size=3)
    plans = list(islice(plan_batches(order, World(), 3, 5), 2 * STEPS_AT_ONCE + 3))
    samples = np.concatenate([plan.samples for plan in plans])
    assert samples.tolist() == order.positions(15, 15 + 3 * len(plans)).tolist()


@settings(deadline=None)
@given(orders(), st.integers(0, 3))
def test_a_block_is_needed_again_in_sight_or_in_another_run(order: Order, epoch: int) -> None:
    ahead = plans_ahead(order, order.batch_size)
    for lane in range(order.batch_size):
        blocks = np.searchsorted(order.block_bounds, order.lane(epoch, lane), side="right") - 1
        for block in np.unique(blocks):
            assert np.diff(np.flatnonzero(blocks == block)).max(initial=0) <= ahead


def test_a_block_spans_its_samples() -> None:
    nothing = np.zeros(5, np.int32)
    index = ShardIndex(
        split="train", shard_names=("0.tar",), keys=KeyColumn.of("abcde"), shard=nothing,
        offset=np.array([0, 10, 30, 0, 7], np.int64), length=np.array([10, 20, 5, 7, 1], np.int32),
        width=nothing, height=nothing, checksum=np.zeros(5, np.uint64),
    )  # fmt: skip
    bounds = np.array([0, 2, 3, 5])
    assert [block_bytes(index, bounds, block) for block in range(3)] == [30, 5, 8]
