"""Which blocks of a split to hold in memory: fetched ahead by threads, kept while needed, within a budget."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray


class BlockCache:
    """Blocks on their way or in memory. Used by one thread alone; the fetches run on `pool`.

    `num_bytes` gives a block's size. A block with uses to come is never dropped; others make room, the least recently
    used first, so that a split that fits into the budget is read once.
    """

    def __init__(
        self,
        fetch: Callable[[int], memoryview],
        num_bytes: Callable[[int], int],
        budget_bytes: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._fetch = fetch
        self._num_bytes = num_bytes
        self._budget_bytes = budget_bytes
        self._pool = pool
        self._held: OrderedDict[int, Future[memoryview]] = OrderedDict()
        self._uses: Counter[int] = Counter()  # of those that have any: there may be millions of blocks
        self.bytes_held = 0

    def expect(self, blocks: NDArray[np.int64]) -> None:
        """Announce one use of each of `blocks`; a block may be there several times."""
        self._uses.update(blocks.tolist())

    def get(self, block: int) -> Future[memoryview] | None:
        """The block, begun to be fetched if it is not there; None when the budget has no room for it."""
        if block not in self._held:
            if not self._make_room(self._num_bytes(block)):
                return None
            self._held[block] = self._pool.submit(self._fetch, block)
            self.bytes_held += self._num_bytes(block)
        self._held.move_to_end(block)
        return self._held[block]

    def used(self, block: int) -> None:
        """One announced use is over."""
        self._uses[block] -= 1
        if not self._uses[block]:
            del self._uses[block]

    def _make_room(self, num_bytes: int) -> bool:
        idle = [block for block in self._held if block not in self._uses]
        while idle and self.bytes_held + num_bytes > self._budget_bytes:
            block = idle.pop(0)
            del self._held[block]
            self.bytes_held -= self._num_bytes(block)
        return self.bytes_held + num_bytes <= self._budget_bytes
