"""Blocks in memory: within the budget, never dropped while needed, fetched once while they fit."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.block_cache import BlockCache

SIZES = [10, 30, 20, 10, 40]


@given(
    st.lists(st.integers(0, len(SIZES) - 1), max_size=60),
    st.integers(0, 120),
    st.integers(0, 5),
)
def test_a_budget_is_kept_and_needed_blocks_stay(uses: list[int], budget: int, ahead: int) -> None:
    """Uses in the order announced, each asked for `ahead` uses before its own turn, as the loader does."""
    fetched: list[int] = []
    lock = threading.Lock()

    def fetch(block: int) -> memoryview:
        with lock:
            fetched.append(block)
        return memoryview(bytes([block]) * SIZES[block])

    with ThreadPoolExecutor(3) as pool:
        cache = BlockCache(fetch, SIZES.__getitem__, budget, pool)
        cache.expect(np.array(uses, np.int64))
        for turn, block in enumerate(uses):
            for coming in uses[turn : turn + ahead + 1]:
                cache.get(coming)
                assert cache.bytes_held <= budget
            found = cache.get(block)
            assert cache.bytes_held <= budget
            assert found is None or bytes(found.result()) == bytes([block]) * SIZES[block]
            cache.used(block)
    if budget >= sum(SIZES):
        assert sorted(fetched) == sorted(set(uses))


def test_the_least_recently_used_makes_room_first() -> None:
    with ThreadPoolExecutor(1) as pool:
        fetched: list[int] = []

        def fetch(block: int) -> memoryview:
            fetched.append(block)
            return memoryview(b"")

        cache = BlockCache(fetch, SIZES.__getitem__, 60, pool)
        for block in (0, 1, 2, 0, 3, 2, 1):  # 10 + 30 + 20 fill it; 3 sends 1 away
            cache.get(block)
    assert fetched == [0, 1, 2, 3, 1]
