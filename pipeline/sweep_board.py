"""The board of a sweep: what its trials and its driver tell each other while they run."""

from __future__ import annotations

from pipeline.progress import Facts, ProgressBoard

STOP = "stop"
"""Asked of the trials: write a checkpoint and leave."""


class SweepBoard(ProgressBoard):
    """The latest facts of each trial, by its number as text, and what is asked of all; an actor of the driver."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = ""
        self._left: set[int] = set()

    def tell(self, number: int, facts: Facts) -> str:
        """Take the facts of a trial; returns what is asked of it, '' for nothing."""
        self.post({str(number): facts})
        return self._asked

    def ask(self, what: str) -> None:
        """Ask something of all trials: STOP."""
        self._asked = what

    def leave(self, number: int) -> None:
        """A trial and its workers have left."""
        self._left.add(number)

    def left(self) -> set[int]:
        """The trials that have left."""
        return set(self._left)
