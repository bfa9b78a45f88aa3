"""Rank arithmetic: every part belongs to one rank."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.world import World


@given(st.integers(0, 500), st.integers(1, 64))
def test_shares_are_neighbours_in_rank_order_and_equal_to_one(count: int, size: int) -> None:
    shares = [World(rank, size).share(count) for rank in range(size)]
    assert [sample for share in shares for sample in share] == list(range(count))
    lengths = [len(share) for share in shares]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] <= 1


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 64))
def test_each_lane_has_one_owner(first: int, count: int, size: int) -> None:
    lanes = [lane for rank in range(size) for lane in World(rank, size).lanes(first, first + count)]
    assert sorted(lanes) == list(range(first, first + count))
    assert all(lane % size == rank for rank in range(size) for lane in World(rank, size).lanes(first, first + count))
