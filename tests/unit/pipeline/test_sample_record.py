"""The record of samples: what each step was made of, in the order of the lanes, whatever ranks had them."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.loader import Batch
from pipeline.sample_record import SampleRecord, merged
from pipeline.world import World
from tests.unit.encnet.ranks import Ranks

STEPS = st.integers(1, 7).flatmap(lambda size: st.lists(st.lists(st.integers(0, 9), min_size=size, max_size=size)))
"""The sample ids of some steps of one batch size, by lane."""


def batch(lanes: list[int], step: list[int]) -> Batch:
    """A micro-batch of those lanes of a step."""
    nothing = torch.empty(0)
    samples = torch.tensor([step[lane] for lane in lanes], dtype=torch.int64)
    positions = torch.tensor(lanes, dtype=torch.int64)
    return Batch(
        images=nothing, labels=nothing, positions=positions, sample_ids=samples, step=0, micro_step=0, consumed=0
    )


def shares(step: list[int], world: World, micro_batch: int) -> list[Batch]:
    """A rank's micro-batches of a step."""
    firsts = range(0, len(step), micro_batch)
    return [batch(list(world.lanes(first, min(first + micro_batch, len(step)))), step) for first in firsts]


@given(STEPS, st.integers(1, 5))
def test_what_all_ranks_were_shown_is_the_batch_of_each_step(steps: list[list[int]], size: int) -> None:
    of_ranks = [
        [[(lane, step[lane]) for lane in World(rank, size).lanes(0, len(step))] for step in steps]
        for rank in range(size)
    ]
    assert merged(of_ranks) == steps
    assert merged(of_ranks[::-1]) == steps


@given(STEPS.filter(len), st.data())
def test_a_lost_share_and_one_seen_twice_are_seen(steps: list[list[int]], data: st.DataObject) -> None:
    shown = [list(enumerate(step)) for step in steps]
    number = data.draw(st.integers(0, len(steps) - 1))
    lost = [step if each != number else step[1:] for each, step in enumerate(shown)]
    assert [len(step) for step in merged([lost])].count(len(steps[0]) - 1) == 1
    twice = merged([shown, [step[:1] if each == number else [] for each, step in enumerate(shown)]])
    assert [len(step) for step in twice].count(len(steps[0]) + 1) == 1


@given(STEPS, st.integers(0, 30), st.integers(1, 4))
def test_it_goes_on_where_the_record_before_ended(steps: list[list[int]], cut: int, micro_batch: int) -> None:
    world, cut = World(), min(cut, len(steps))
    before = SampleRecord(world, [], 0)
    for step in steps[:cut]:
        before.add(shares(step, world, micro_batch))
    after = SampleRecord(world, before.gather(), cut)
    for step in steps[cut:]:
        after.add(shares(step, world, micro_batch))
    assert after.gather() == after.gather() == steps


def test_steps_before_it_was_switched_on_have_no_samples() -> None:
    record = SampleRecord(World(), [[1, 2]], 3)
    record.add([batch([0, 1], [5, 6])])
    assert record.gather() == [[1, 2], [], [], [5, 6]]


def test_the_ranks_of_a_group_gather_the_same(tmp_path: Path) -> None:
    ranks = Ranks(2, tmp_path)
    try:
        assert ranks.run(_recorded, 2) == [[[7, 8, 9], [4, 5, 6]]] * 2
    finally:
        ranks.close()


def _recorded(rank: int, size: int) -> list[list[int]]:
    world = World(rank, size)
    record = SampleRecord(world, [[7, 8, 9]], 1)
    record.add(shares([4, 5, 6], world, 2))
    return record.gather()
