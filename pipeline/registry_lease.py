"""One at a time: who moves the aliases of a registered model holds a lease on it.

MLflow can't set an alias on a condition, and the machines that promote share nothing but its registry. So a claim is a
tag of the registered model with a name of its own, set first and looked for after: of two that both claim, at least the
one that looks later sees the other's, and whoever sees another's takes his own away and waits. At most one goes on.

No clocks are compared. A holder does not begin to write anything `HOLD_S` after he claimed, by his own clock; a claim
that somebody has seen for `DEAD_AFTER_S`, by his, is that of a process that has ended, and is removed.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from pipeline.environment import overridden
from pipeline.errors import PipelineError, first_line
from pipeline.tracking import FEW_RETRIES, explain

if TYPE_CHECKING:
    from mlflow import MlflowClient

CLAIM = "promotion claim "
HOLD_S = 20.0
DEAD_AFTER_S = 60.0
"""More than HOLD_S and the time that a request begun then may take, its one retry included."""
PATIENCE_S = 240.0
POLL_S = (0.2, 0.8)
"""Between looks, at random: two that were in each other's way must not be so again."""
_logger = logging.getLogger(__name__)


class LeaseLost(PipelineError):
    """What was to be done under a lease took too long, and the rest of it was not done."""


class Busy(PipelineError):
    """Others hold the lease all the time."""


@dataclass(kw_only=True)
class Watch:
    """Which claims have been seen since when; of a claim that does not go away its owner is dead."""

    dead_after_s: float = DEAD_AFTER_S
    since: dict[str, float] = field(default_factory=dict)

    def look(self, claims: Collection[str], now: float) -> tuple[list[str], list[str]]:
        """The living and the dead among the claims that are there `now`, in seconds of any steady clock."""
        self.since = {claim: self.since.get(claim, now) for claim in claims}
        dead = [claim for claim, first in self.since.items() if now - first >= self.dead_after_s]
        return [claim for claim in self.since if claim not in dead], dead


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to move the aliases of a registered model, for a short time."""

    name: str
    claimed_at: float
    clock: Callable[[], float]

    def check(self) -> None:
        """To be called before each write. Raises LeaseLost."""
        if self.clock() - self.claimed_at > HOLD_S:
            raise LeaseLost(f"{self.name}: its aliases could not be moved within {HOLD_S:.0f} s: do it again")


@contextmanager
def lease(
    client: MlflowClient,
    name: str,
    owner: str,
    watch: Watch | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Lease]:
    """Hold the lease on a registered model for the block; calls to MLflow in it are tried for seconds only.

    Raises Busy, and TrackingError where MLflow fails.
    """
    claims = _Claims(client, name, owner, watch or Watch())
    with overridden(FEW_RETRIES):
        deadline = clock() + PATIENCE_S
        while (claimed_at := claims.claim(clock)) is None:
            if clock() > deadline:
                raise Busy(f"{name}: {claims.holder()} has been moving its aliases for long: try again later")
            sleep(random.uniform(*POLL_S))
        try:
            yield Lease(name=name, claimed_at=claimed_at, clock=clock)
        finally:
            claims.withdraw()


class _Claims:
    """The claims on a registered model, of which one may be ours."""

    def __init__(self, client: MlflowClient, name: str, owner: str, watch: Watch) -> None:
        self._client, self._name, self._owner, self._watch = client, name, owner, watch
        self._mine = ""
        self._others: dict[str, str] = {}
        self._told = False

    def claim(self, clock: Callable[[], float]) -> float | None:
        """When it was claimed; None where another one has claimed it too: then it was withdrawn."""
        if self._look(clock()):
            return None
        began = clock()
        self._mine = CLAIM + uuid.uuid4().hex
        alone = False
        try:
            with self._explained():
                self._client.set_registered_model_tag(self._name, self._mine, self._owner)
            alone = not self._look(clock())
        finally:
            if not alone:
                self.withdraw()
        return began if alone else None

    def holder(self) -> str:
        """Who else claims it."""
        return next(iter(self._others.values()), "somebody")

    def withdraw(self) -> None:
        """Take our claim away; one that can't be is dead to others after a while."""
        if self._mine:
            self._remove(self._mine)
        self._mine = ""

    def _look(self, now: float) -> list[str]:
        """Living claims of others; the dead are removed."""
        with self._explained():
            tags = self._client.get_registered_model(self._name).tags
        self._others = {tag: who for tag, who in tags.items() if tag.startswith(CLAIM) and tag != self._mine}
        living, dead = self._watch.look(self._others, now)
        for claim in dead:
            _logger.warning("%s: the claim of %s, which has ended, is removed", self._name, self._others[claim])
            self._remove(claim)
        if living and not self._told:
            _logger.warning("%s: waiting for %s, who moves its aliases", self._name, self.holder())
            self._told = True
        return living

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            raise explain(error, f"{self._name} could not be claimed") from error

    def _remove(self, claim: str) -> None:
        try:
            self._client.delete_registered_model_tag(self._name, claim)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                _logger.warning("%s: %r could not be removed: %s", self._name, claim, first_line(error))
