"""What to do when an attempt at training has failed: a pure function of what has failed so far.

The rules, in this order:

1. A mistake of the user's, damaged data and losses that are not finite come again however often one tries: stop.
2. The same exception at the same step for the second time is a poison pill: stop, also when there was a checkpoint
   between the two.
3. Otherwise go on from the newest checkpoint, until too many failures came in a row without a new checkpoint between.
   Lost nodes and preempted ones have counts of their own, and one kind does not use up another's. A checkpoint sets
   all counts back: a run that comes forward is let go on, and it ends, since its steps are finite.

Each restart in a row waits twice as long as the one before, a little more or less by chance, so that what is
overloaded can recover and runs that failed together do not come back together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum


class Kind(StrEnum):
    """What kind of failure it was; the value is how it is told."""

    INPUT = "input"
    """What was asked for, the data or the numbers are wrong: no repetition helps."""
    WORKER_ERROR = "worker error"
    """An exception in a worker."""
    OUTAGE = "outage"
    """Storage or another service did not answer, retries included."""
    WORKER_DEATH = "worker death"
    """A worker's process ended: killed, out of memory, crashed."""
    HANG = "hang"
    """A worker stopped coming forward, and the others waited for it in vain."""
    STARTUP = "startup"
    """The group of workers did not come up."""
    NODE_LOSS = "node loss"
    PREEMPTION = "preemption"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One attempt's end."""

    kind: Kind
    rank: int | None = None
    """The worker it began at, where that is known."""
    error: str = ""
    """The type of the exception."""
    message: str = ""
    """One line."""
    step: int | None = None
    """Steps that were done; None before the first is under way."""
    checkpoint: int = 0
    """The step of the newest checkpoint then; 0 for none."""

    @property
    def signature(self) -> tuple[str, str, int | None]:
        """What makes two exceptions the same: type, step and message, addresses and sizes in it aside."""
        return self.error, re.sub(r"0x[0-9a-f]+|\d+", "#", self.message), self.step

    def __str__(self) -> str:
        where = "" if self.rank is None else f" of worker {self.rank}"
        when = "before the first step" if self.step is None else f"at step {self.step}"
        return f"{self.kind}{where} {when}" + (f": {self.message}" if self.message else "")


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """How many failures in a row, without a new checkpoint between, are recovered from."""

    failures: int = 3
    node_losses: int = 5
    preemptions: int = 20

    def of(self, kind: Kind) -> int:
        """The budget that a kind of failure draws on."""
        return {Kind.NODE_LOSS: self.node_losses, Kind.PREEMPTION: self.preemptions}.get(kind, self.failures)


class Action(Enum):
    """Go on from the newest checkpoint, or give up."""

    RESUME = "resume"
    STOP = "stop"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do, and why in words."""

    action: Action
    reason: str
    wait_s: float = 0.0
    """Before resuming."""


_FIRST_WAIT_S = {Kind.OUTAGE: 10.0, Kind.STARTUP: 5.0, Kind.NODE_LOSS: 5.0, Kind.PREEMPTION: 5.0}
_LONGEST_WAIT_S = 120.0


def decide(history: Sequence[Failure], budgets: Budgets, chance: float = 0.5) -> Decision:
    """What to do about the last failure of `history`, oldest first; `chance` in [0, 1) spreads the wait."""
    last = history[-1]
    if last.kind is Kind.INPUT:
        return Decision(action=Action.STOP, reason="it would fail again")
    if last.kind is Kind.WORKER_ERROR and last.signature in {one.signature for one in history[:-1]}:
        when = "before the first step" if last.step is None else f"at step {last.step}"
        return Decision(
            action=Action.STOP, reason=f"the same {last.error} {when} for the second time: it is not by chance"
        )
    in_a_row, budget = _in_a_row(history), budgets.of(last.kind)
    if in_a_row > budget:
        return Decision(
            action=Action.STOP,
            reason=f"{in_a_row} of this kind in a row without a new checkpoint, and {budget} are recovered from",
        )
    wait_s = min(_FIRST_WAIT_S.get(last.kind, 1.0) * 2.0 ** min(in_a_row - 1, 30), _LONGEST_WAIT_S)
    return Decision(
        action=Action.RESUME,
        reason=f"restart {in_a_row} of at most {budget} in a row",
        wait_s=wait_s * (0.75 + 0.5 * chance),
    )


def _in_a_row(history: Sequence[Failure]) -> int:
    """How many failures drew on the last one's budget since the newest checkpoint was written."""
    last = history[-1]
    apart = (Kind.NODE_LOSS, Kind.PREEMPTION)
    return sum(
        one.checkpoint == last.checkpoint
        and (one.kind is last.kind or (one.kind not in apart and last.kind not in apart))
        for one in history
    )
