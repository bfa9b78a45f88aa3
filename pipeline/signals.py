"""Requests that all ranks must act on at the same step, without any rank waiting for another.

Every step, each rank hands in what it asks for, in one tiny all-reduce that runs beside the next step; what any rank
asked for comes out on all ranks a step later.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple

import torch
import torch.distributed as dist

from pipeline.world import World

PREEMPTION_CHECK_EVERY_S = 2.0
AFTER_LOST_S = 60.0
"""When the next checkpoint is due after one that was lost."""


class Requests(NamedTuple):
    """What may be asked for."""

    stop: bool = False
    """Checkpoint and leave."""
    checkpoint: bool = False
    preemption_check: bool = False
    """All ranks ask Ray together whether a node is about to be taken away."""


NOTHING = Requests()


class Signals(AbstractContextManager["Signals"]):
    """The exchange of requests between ranks.

    On one rank too, what is asked for comes out a step later: nothing depends on the number of workers.
    `timeout_s`: how long the others may be silent before an exchange fails, with torch's own error.
    """

    def __init__(self, world: World, timeout_s: float) -> None:
        # Of its own, on the CPU: neither the GPU nor the gradients' all-reduce has to be waited for.
        timeout = datetime.timedelta(seconds=timeout_s)
        self._group = dist.new_group(backend="gloo", timeout=timeout) if world.size > 1 else None
        self._flags = torch.zeros(len(NOTHING), dtype=torch.uint8)
        self._pending: dist.Work | None = None

    def exchange(self, requests: Requests) -> Requests:
        """Hand in this rank's requests; returns those that any rank handed in at the call before."""
        asked = self._collect()
        self._flags = torch.tensor(requests, dtype=torch.uint8)
        if self._group is not None:
            self._pending = dist.all_reduce(self._flags, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return asked

    def _collect(self) -> Requests:
        if self._pending is not None:
            self._pending.wait()
            self._pending = None
        return Requests(*(bool(flag) for flag in self._flags.tolist()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._collect()


class Clock:
    """Rank 0's: when a checkpoint and a check for preemption are due. `now` gives seconds."""

    def __init__(self, checkpoint_every_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._now = checkpoint_every_s, now
        self._saved_at = self._checked_at = now()

    def due(self, lost_one: bool = False) -> Requests:
        """What is due now; a check for preemption counts as done with it.

        `lost_one`: the last checkpoint did not reach storage, so the next is due sooner.
        """
        now = self._now()
        check = now - self._checked_at >= PREEMPTION_CHECK_EVERY_S
        if check:
            self._checked_at = now
        every_s = min(self._every_s, AFTER_LOST_S) if lost_one else self._every_s
        return Requests(checkpoint=now - self._saved_at >= every_s, preemption_check=check)

    def saved(self) -> None:
        """A checkpoint was just taken."""
        self._saved_at = self._now()
