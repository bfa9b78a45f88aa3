"""The board of a run: what its workers and its driver tell each other while they train.

The driver keeps a `RunBoard` as an actor on its own node. Every worker has a `Pulse`: a thread that tells the board
once a second which step the worker is at and what it does there, and brings back what the driver asks for. A worker
that is stopped, or stuck where no signal reaches it, falls silent; one that waits for another says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from pipeline.progress import Facts, ProgressBoard

STOP = "stop"
"""Asked of the workers: write a checkpoint and leave."""
ABANDON = "abandon"
"""Asked of the workers: end the process at once, since the run is stuck."""
BEAT_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Beat:
    """The last sign of life of one worker."""

    node: str = ""
    """The Ray node that it is on."""
    step: int = 0
    phase: str = ""
    """What it does there, in a word: "data", "step", "checkpoint", "validation"."""
    silent_s: float = 0.0
    """Since the last beat."""
    same_s: float = 0.0
    """Since step or phase last changed."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something that a worker wants in the run's timeline."""

    at: float
    """Seconds since the epoch."""
    kind: str
    detail: str
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """All that the board holds at a moment."""

    facts: Facts = field(default_factory=dict)
    size: int = 0
    """Workers in the group that joined last; 0 before any has."""
    beats: dict[int, Beat] = field(default_factory=dict)
    """By rank."""
    notes: list[Note] = field(default_factory=list)
    """Since the attempt began."""


class RunBoard(ProgressBoard):
    """Facts, signs of life, notes and requests of one attempt; an actor of the driver."""

    def __init__(self) -> None:
        super().__init__()
        self._asked, self._size = "", 0
        self._members: dict[int, tuple[int, str]] = {}
        self._beats: dict[int, tuple[int, str, float, float]] = {}
        self._notes: list[Note] = []

    def open_attempt(self) -> None:
        """Forget the workers, notes and requests of the attempt before; its facts stay to be shown."""
        self._asked, self._size = "", 0
        self._members, self._beats, self._notes = {}, {}, []

    def join(self, rank: int, size: int, node: str, pid: int) -> None:
        """A worker begins. The first of a new group of workers drives the group before it out."""
        known = self._members.get(rank)
        if size != self._size or (known and known[0] != pid):
            self._members, self._beats, self._size = {}, {}, size
        self._members[rank] = (pid, node)
        now = time.monotonic()
        self._beats[rank] = (0, "start", now, now)

    def beat(self, rank: int, step: int, phase: str) -> str:
        """Take a worker's sign of life; returns what is asked of the workers, '' for nothing."""
        now = time.monotonic()
        was = self._beats.get(rank)
        changed_at = was[3] if was and was[:2] == (step, phase) else now
        self._beats[rank] = (step, phase, now, changed_at)
        return self._asked

    def ask(self, what: str) -> None:
        """Ask something of the workers: STOP or ABANDON."""
        self._asked = what

    def asked(self) -> str:
        """What is asked of the workers, '' for nothing."""
        return self._asked

    def note(self, kind: str, detail: str, step: int | None = None) -> None:
        """Put something into the run's timeline."""
        self._notes.append(Note(at=time.time(), kind=kind, detail=detail, step=step))

    def look(self) -> View:
        """All that is known."""
        now = time.monotonic()
        beats = {
            rank: Beat(
                node=self._members.get(rank, (0, ""))[1],
                step=step,
                phase=phase,
                silent_s=now - seen_at,
                same_s=now - changed_at,
            )
            for rank, (step, phase, seen_at, changed_at) in sorted(self._beats.items())
        }
        return View(facts=self.read(), size=self._size, beats=beats, notes=list(self._notes))


class Pulse(AbstractContextManager["Pulse"]):
    """A worker's sign of life: a thread that calls `tell(step, phase)` once a second and keeps what it answers.

    `at` and `asked` cost nothing: the training loop calls them every step, and never waits.
    """

    def __init__(self, tell: Callable[[int, str], str], every_s: float = BEAT_EVERY_S) -> None:
        self.asked = ""
        """What the driver asks of the workers."""
        self._tell, self._every_s = tell, every_s
        self._place = (0, "start")
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def at(self, step: int, phase: str) -> None:
        """The worker is at `step` and does `phase` there."""
        self._place = (step, phase)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join(timeout=5)
        if error is not None:  # where exactly it failed tells whether it is the same as the last time
            self._tell(*self._place)

    def _run(self) -> None:
        while True:
            self.asked = self._tell(*self._place)
            if self.asked == ABANDON:
                os._exit(1)  # the training thread is stuck: nothing less would end it
            if self._left.wait(self._every_s):
                return


def silent_pulse(*_: Any) -> str:
    """For a `Pulse` where there is no board: asks for nothing."""
    return ""
