"""A record of the samples that made up each step, kept over restarts: what shows that none was lost or seen twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import torch.distributed as dist

from pipeline.loader import Batch
from pipeline.world import World

Shown = list[tuple[int, int]]
"""Lane and sample id of what one rank was shown in one step."""


class SampleRecord:
    """One rank's part of the record since it was last gathered, and all ranks' before that.

    Args:
        world: this rank, and how many there are.
        before: the record of the attempts before, as `gather` gave it.
        step: steps done by then; those that are not in `before`, since nothing was recorded, have no samples.
    """

    def __init__(self, world: World, before: Sequence[Sequence[int]], step: int) -> None:
        self._world = world
        self._steps = [*map(list, before), *([] for _ in range(step - len(before)))]
        self._pending: list[Shown] = []

    def add(self, micro_batches: Iterable[Batch]) -> None:
        """Take note of this rank's share of one step."""
        pairs = (zip(batch.positions.tolist(), batch.sample_ids.tolist(), strict=True) for batch in micro_batches)
        self._pending.append(list(chain.from_iterable(pairs)))

    def gather(self) -> list[list[int]]:
        """The sample ids of all steps so far, of all ranks, by lane. All ranks call it after the same step."""
        of_ranks = [self._pending]
        if self._world.size > 1:
            of_ranks = [[] for _ in range(self._world.size)]
            dist.all_gather_object(of_ranks, self._pending)
        self._steps += merged(of_ranks)
        self._pending = []
        return list(self._steps)


def merged(of_ranks: Sequence[Sequence[Shown]]) -> list[list[int]]:
    """What the ranks were shown in the same steps -> the sample ids of each step, in the order of their lanes."""
    return [[sample for _, sample in sorted(chain.from_iterable(parts))] for parts in zip(*of_ranks, strict=True)]
