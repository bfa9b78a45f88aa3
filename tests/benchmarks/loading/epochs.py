"""What loaders lose or repeat in an epoch that is interrupted, told by the samples that their ranks really got.

The protocol, the same for all: ranks are processes of their own and go step by step together, as data parallel training
does; a batch of 8 is shared among them. At an interruption all ranks have taken the same number of steps, and a
checkpoint holds what rank 0's loader gives to be resumed with. Then one rank is killed (SIGKILL, with all that it has
read ahead) or none, all ranks are ended, and new ones, as many as there then are, open the loader with that state. The
epoch ends when the first rank's loader does, since a step needs all ranks.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from infra.local import ports
from pipeline.world import World
from tests.benchmarks.loading.loaders import Share, Step, enter
from tests.benchmarks.loading.speed import LOADERS

GRACE_S = 10.0


class Part(NamedTuple):
    """Part of an epoch: with how many ranks, and what becomes of them."""

    ranks: int
    share: float
    """Of the epoch's steps; the last part goes on to the end."""
    kill: int | None = None
    """The rank that is killed when the part is over."""


SCENARIOS = {
    "one of 2 workers killed, replaced": (Part(2, 1 / 2, kill=1), Part(2, 1)),
    "4 -> 2 -> 4 workers": (Part(4, 1 / 3), Part(2, 1 / 3), Part(4, 1)),
    "resumed at mid-epoch, 2 workers": (Part(2, 1 / 2), Part(2, 1)),
}


class Loss(NamedTuple):
    """What was wrong with an epoch."""

    lost: int
    """Samples that no rank got."""
    repeated: int
    """How often samples came that had come before."""


def run_epoch(name: str, share: Share, parts: Sequence[Part]) -> Loss:
    """An epoch of the loader `name` through the interruptions between its parts; `share` is for one rank of one."""
    num_samples = share.source.num_samples
    seen: Counter[int] = Counter()
    state: dict[str, Any] | None = None
    for number, part in enumerate(parts):
        is_last = number + 1 == len(parts)
        steps = num_samples if is_last else int(part.share * (num_samples // share.batch_size))
        with tempfile.TemporaryDirectory(dir=share.scratch) as scratch:
            ranks = _Ranks(name, replace(share, scratch=Path(scratch), state=state), part.ranks)
            with closing(ranks):
                for _ in range(steps):
                    step = ranks.step()
                    if step is None:
                        break
                    seen.update(step.samples)
                    state = step.state
                if part.kill is not None:
                    ranks.kill(part.kill)
    return Loss(lost=num_samples - len(seen), repeated=seen.total() - len(seen))


class _Ranks:
    """Processes that share an epoch."""

    def __init__(self, name: str, share: Share, size: int) -> None:
        context = get_context("forkserver")
        port = ports.choose(["ranks"])["ranks"]
        self._processes, self._pipes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(name, replace(share, world=World(rank, size), port=port), theirs)
            )
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            self._processes.append(process)
            self._pipes.append(ours)

    def step(self) -> Step | None:
        """The batch of all ranks together, and rank 0's state; None when a rank has no more."""
        for pipe in self._pipes:
            pipe.send("next")
        steps = [pipe.recv() for pipe in self._pipes]
        if any(step is None for step in steps):
            return None
        return Step([sample for step in steps for sample in step.samples], steps[0].state)

    def kill(self, rank: int) -> None:
        """End a rank with SIGKILL."""
        self._processes[rank].kill()
        self._processes[rank].join()

    def close(self) -> None:
        """End the ranks; those that wait for one that is gone are killed."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            if process.is_alive():
                pipe.send("close")
        for process in self._processes:
            process.join(GRACE_S)
            if process.is_alive():
                process.kill()
                process.join()


def _serve(name: str, share: Share, pipe: Any) -> None:
    """On a rank: a step whenever one is asked for."""
    enter(share)
    steps = LOADERS[name](share)
    for _ in iter(pipe.recv, "close"):
        pipe.send(next(steps, None))
    steps.close()  # type: ignore[attr-defined]
