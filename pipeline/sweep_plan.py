"""What a sweep knows of its trials, and what follows from that: pure functions.

Which trial is next, whether it makes sense to go on, which is best, and how many fit into a cluster at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple

HOPELESS_AFTER = 3
"""So many trials that failed, and none that did not, end a sweep."""


class Outcome(StrEnum):
    """How a trial ended; the value is how it is told."""

    OPEN = "open"
    """It has not: it waits, runs, or was broken off."""
    FINISHED = "finished"
    STOPPED = "stopped"
    """The scheduler ended it before its last step."""
    DIVERGED = "diverged"
    """Its numbers were not finite any more."""
    FAILED = "failed"


class Score(NamedTuple):
    """What a validation of a trial found."""

    step: int
    share: float
    """Of the trial's own steps that were done."""
    value: float
    """Of the sweep's metric."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial, as far as it is known."""

    number: int
    values: dict[str, Any]
    """Field -> the value it has in this trial."""
    outcome: Outcome = Outcome.OPEN
    scores: list[Score] = field(default_factory=list)
    """Of its validations, in their order."""
    reason: str = ""
    """Why it failed."""

    @property
    def score(self) -> float | None:
        """Its best; None before the first validation."""
        return max((score.value for score in self.scores), default=None)

    @property
    def share(self) -> float:
        """Of its steps, as far as validations tell."""
        return max((score.share for score in self.scores), default=0.0)

    @property
    def step(self) -> int:
        """Of its last validation."""
        return max((score.step for score in self.scores), default=0)

    def scored(self, score: Score) -> Trial:
        """The trial after one more validation; one of a step that is known already changes nothing."""
        if score.step <= self.step:
            return self
        return replace(self, scores=[*self.scores, score])

    def ended(self, outcome: Outcome, reason: str = "") -> Trial:
        """The trial once it has ended."""
        return replace(self, outcome=outcome, reason=reason)

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """What `to_dict` gave."""
        scores = [Score(*score) for score in values["scores"]]
        return cls(**{**values, "outcome": Outcome(values["outcome"]), "scores": scores})


def next_trial(trials: Collection[Trial], under_way: Collection[int], num_trials: int) -> int | None:
    """The number of the trial to run next: one that was broken off, else a new one; None when there is none."""
    open_ones = [one.number for one in trials if one.outcome is Outcome.OPEN and one.number not in under_way]
    if open_ones:
        return min(open_ones)
    return len(trials) if len(trials) < num_trials else None


def reopened(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that failed, to be gone on with; those that diverged would do so again."""
    return [one.ended(Outcome.OPEN) for one in trials if one.outcome is Outcome.FAILED]


def is_hopeless(trials: Iterable[Trial]) -> bool:
    """Whether all trials that ended failed, and those were several: the fault is not in their values."""
    ended = [one.outcome for one in trials if one.outcome is not Outcome.OPEN]
    return len(ended) >= HOPELESS_AFTER and set(ended) == {Outcome.FAILED}


def best(trials: Iterable[Trial]) -> Trial | None:
    """The trial with the highest score of those that went to their end, the first of equally good ones."""
    finished = [one for one in trials if one.outcome is Outcome.FINISHED and one.score is not None]
    return max(finished, key=lambda one: (one.score, -one.number), default=None)


def leaderboard(trials: Iterable[Trial]) -> list[Trial]:
    """All trials, the best first: by how far they came before they were ended, then by score.

    Scores of trials that were ended early are not those they would have come to: among those that were not, they
    would compare two different things.
    """
    rank = {Outcome.FINISHED: 0, Outcome.STOPPED: 1, Outcome.OPEN: 1, Outcome.DIVERGED: 2, Outcome.FAILED: 3}

    def place(one: Trial) -> tuple[int, float, float, int]:
        is_finished = one.outcome is Outcome.FINISHED
        score = -1.0 if one.score is None else one.score
        return rank[one.outcome], 0.0 if is_finished else -one.share, -score, one.number

    return sorted(trials, key=place)


def count(trials: Iterable[Trial], outcome: Outcome) -> int:
    """How many trials ended so."""
    return sum(one.outcome is outcome for one in trials)


def max_concurrent(nodes: Sequence[Mapping[str, float]], needs: Mapping[str, float], num_workers: int) -> int:
    """How many trials of `num_workers` fit into a cluster at once, each worker whole on one node.

    Args:
        nodes: what each node has: kind of resource -> amount.
        needs: the same of one worker.
        num_workers: of a trial.

    Workers of all trials are alike, so that any free place will do for any of them: none can keep another out.
    """
    places = sum(
        min(int(node.get(kind, 0.0) / need + 1e-9) for kind, need in needs.items() if need > 0) for node in nodes
    )
    return places // num_workers
