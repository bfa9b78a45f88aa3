"""What an attempt at training failed of: from the exceptions of its workers, their last signs of life and lost nodes.

When one worker goes, the others fail too: their collectives break off or wait in vain. The cause is looked for among
the workers that did not merely lose contact; where there are none, among those that fell behind.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import ray.exceptions
import ray.train

from pipeline.errors import (
    DataError,
    InputError,
    StorageError,
    TrackingError,
    TrainingError,
    first_line,
)
from pipeline.failure_policy import Failure, Kind
from pipeline.run_board import Beat, View

FINAL = (InputError, DataError, TrainingError)
"""Errors that repeat however often one tries."""
_OUTAGES = (StorageError, TrackingError, ConnectionError, TimeoutError)
_COLLECTIVES = {"DistError", "DistBackendError", "DistNetworkError", "DistStoreError", "CollectiveTimeoutError"}
_BEFORE_TRAINING = ("start", "ready")
"""A worker sets itself up; it is set up, and may wait for others."""
_PHASES = (*_BEFORE_TRAINING, "data", "step", "validation", "checkpoint", "upload")
SILENT_S = 5.0
"""Without a sign of life for so long, a worker is taken to be gone or stopped: it gives one every second."""
_STEPS_THAT_WAIT = ("data", "step")


def diagnose(
    error: BaseException,
    view: View,
    *,
    lost: Collection[str] = (),
    checkpoint: int = 0,
    restarted: bool = False,
) -> Failure:
    """What failed, when `error` ended an attempt.

    Args:
        error: what Ray Train raised.
        view: the board as it was at the end.
        lost: nodes (by id) that have died since the attempt began.
        checkpoint: the step of the newest checkpoint.
        restarted: whether workers had trained with the same settings before, so that these are not at fault.
    """
    failures = worker_failures(error)
    rank, kind = _culprit(error, failures, view, lost, restarted)
    cause = failures.get(rank) if rank is not None else None
    if cause is None:
        cause = next(iter(failures.values()), root_cause(error))
    return Failure(
        kind=kind,
        rank=rank,
        error=type(cause).__name__,
        message=_message(cause, kind, rank, view),
        step=_step(rank, view),
        checkpoint=checkpoint,
    )


def worker_failures(error: BaseException) -> dict[int, BaseException]:
    """The error of each rank that failed, Ray's wrapping taken off; none when it was not a worker that failed."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    return {rank: root_cause(failure) for rank, failure in sorted(failures.items())}


def root_cause(error: BaseException) -> BaseException:
    """The error that Ray's own errors wrap."""
    wraps = ("cause", "_base_exc", "health_check_failure", "controller_failure")
    inner = next((found for name in wraps if isinstance(found := getattr(error, name, None), BaseException)), None)
    return error if inner is None else root_cause(inner)


def contact_lost(error: BaseException) -> bool:
    """Whether workers failed only of having lost another one, which has not been seen to end."""
    failures = worker_failures(error)
    return bool(failures) and all(map(_lost_contact, failures.values()))


def laggards(beats: Mapping[int, Beat]) -> list[int]:
    """The ranks that the others wait for: those fallen silent, else those at the earliest step and phase."""
    if not beats:
        return []
    latest = min(beat.silent_s for beat in beats.values())
    silent = [rank for rank, beat in beats.items() if beat.silent_s > latest + SILENT_S]
    if silent:
        return silent
    places = {rank: _place(beat) for rank, beat in beats.items()}
    first = min(places.values())
    return [rank for rank, place in places.items() if place == first] if first != max(places.values()) else []


def has_trained(view: View) -> bool:
    """Whether a worker has come as far as to train: what it was told to use was right."""
    return any(beat.phase not in _BEFORE_TRAINING for beat in view.beats.values())


def stuck(view: View, timeout_s: float) -> bool:
    """Whether no worker has come forward for so long that Ray and the collectives should have ended the attempt."""
    return bool(view.beats) and all(
        beat.phase in _STEPS_THAT_WAIT and beat.same_s > 1.5 * timeout_s for beat in view.beats.values()
    )


def _place(beat: Beat) -> tuple[int, int]:
    return beat.step, _PHASES.index(beat.phase) if beat.phase in _PHASES else len(_PHASES)


def _culprit(
    error: BaseException,
    failures: Mapping[int, BaseException],
    view: View,
    lost: Collection[str],
    restarted: bool,
) -> tuple[int | None, Kind]:
    """The rank it began at, where that can be told, and the kind of failure."""
    if isinstance(error, ray.train.PreemptionError) or any(map(_preempted, failures.values())):
        return next((rank for rank, one in failures.items() if _preempted(one)), None), Kind.PREEMPTION
    for rank, one in failures.items():
        if isinstance(one, FINAL):
            # Settings that were right before are right: what can't be reached now was there then.
            return rank, Kind.OUTAGE if restarted and isinstance(one, InputError) else Kind.INPUT
    gone = [rank for rank, beat in view.beats.items() if beat.node in lost]
    if gone:
        return gone[0], Kind.NODE_LOSS
    for rank, one in failures.items():
        if not (_died(one) or _hung(one) or _lost_contact(one)):
            return rank, Kind.OUTAGE if isinstance(one, _OUTAGES) else Kind.WORKER_ERROR
    behind = laggards(view.beats)
    hung = [rank for rank, one in failures.items() if _hung(one)]
    died = [rank for rank, one in failures.items() if _died(one)]
    if hung or any(_timed_out(one) for one in failures.values()):
        return next(iter(hung or died or behind), None), Kind.HANG
    if failures:
        return next(iter(died or behind), None), Kind.WORKER_DEATH
    return None, _without_workers(root_cause(error), restarted)


def _without_workers(cause: BaseException, restarted: bool) -> Kind:
    """The kind of a failure that was not a worker's."""
    if isinstance(cause, InputError) and not restarted:
        return Kind.INPUT
    if isinstance(cause, (*_OUTAGES, OSError, InputError)):  # Ray Train keeps books on storage, and tells by OSError
        return Kind.OUTAGE
    return Kind.WORKER_DEATH if _died(cause) else Kind.STARTUP


def _preempted(error: BaseException) -> bool:
    return isinstance(error, ray.exceptions.RayActorError) and error.preempted


def _died(error: BaseException) -> bool:
    return isinstance(error, (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError))


def _hung(error: BaseException) -> bool:
    return type(error).__name__ == "WorkerHealthCheckTimeoutError"


def _lost_contact(error: BaseException) -> bool:
    """Whether the error is what a healthy worker meets when another one is gone or hangs."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & _COLLECTIVES) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _timed_out(error: BaseException) -> bool:
    return _lost_contact(error) and "timed out" in str(error).lower()


def _step(rank: int | None, view: View) -> int | None:
    """The steps done where it failed: of the rank itself, else the most that any rank was at."""
    beats = view.beats
    if rank in beats:
        return None if beats[rank].phase in _BEFORE_TRAINING else beats[rank].step
    return max((beat.step for beat in beats.values() if beat.phase not in _BEFORE_TRAINING), default=None)


def _message(cause: BaseException, kind: Kind, rank: int | None, view: View) -> str:
    """The failure's cause in one line."""
    if kind is Kind.HANG:
        if rank is None:
            return "the workers waited for each other in vain, and none is behind the others"
        beat = view.beats.get(rank, Beat())
        doing = f"its last sign of life is {beat.silent_s:.0f} s old" if beat.silent_s > SILENT_S else "it still runs"
        return f"the others waited for it in vain: {doing}, at step {beat.step}, phase {beat.phase or 'unknown'}"
    if kind is Kind.NODE_LOSS and rank is not None:
        return f"node {view.beats[rank].node[:8]} is gone"
    if kind is Kind.WORKER_DEATH:
        return _death(cause)
    return " ".join(str(cause).split())[:400] if kind is Kind.INPUT else first_line(cause)


def _death(cause: BaseException) -> str:
    """How a process ended, from Ray's many lines about it."""
    told = re.search(r"Worker exit detail: (.*?)(?: Some common causes|$)", str(cause), re.DOTALL)
    return " ".join(told[1].split()) if told else first_line(cause)
