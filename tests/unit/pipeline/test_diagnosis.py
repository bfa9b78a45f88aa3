"""What an attempt failed of: the cause among the errors that it drags after it, and the worker that hung."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.train.v2._internal.exceptions import (
    BroadcastCollectiveTimeoutError,
    UserExceptionWithTraceback,
    WorkerGroupStartupFailedError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from pipeline.diagnosis import contact_lost, diagnose, has_trained, laggards, root_cause, stuck
from pipeline.errors import DataError, InputError, StorageError, TrainingError
from pipeline.failure_policy import Kind
from pipeline.run_board import Beat, View

CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:15566")
TIMED_OUT = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 4000ms for recv operation")
DIED = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
AT_7 = View(
    size=2,
    beats={
        0: Beat(node="a", step=7, phase="step", silent_s=0.4),
        1: Beat(node="b", step=7, phase="step", silent_s=0.6),
    },
)


def _group(failures: dict[int, Exception]) -> WorkerGroupError:
    return WorkerGroupError("all of it", failures)


def _silent(rank: int) -> View:
    return replace(AT_7, beats={**AT_7.beats, rank: replace(AT_7.beats[rank], silent_s=9.0)})


@pytest.mark.parametrize(
    ("failures", "kind", "rank"),
    [
        ({0: CLOSED, 1: ValueError("a bug")}, Kind.WORKER_ERROR, 1),
        ({0: CLOSED, 1: DIED}, Kind.WORKER_DEATH, 1),
        ({0: CLOSED, 1: StorageError("S3 is away")}, Kind.OUTAGE, 1),
        ({1: DataError("train/000000.tar: s0001: wrong")}, Kind.INPUT, 1),
        ({0: TrainingError("the loss is not finite at step 7"), 1: CLOSED}, Kind.INPUT, 0),
        ({0: InputError("start_weights: no such file")}, Kind.INPUT, 0),
        ({0: TIMED_OUT, 1: WorkerHealthCheckTimeoutError("hanging")}, Kind.HANG, 1),
        ({0: TimeoutError("no answer")}, Kind.OUTAGE, 0),
    ],
)
def test_the_cause_is_told_from_what_it_drags_after_it(failures: dict[int, Exception], kind: Kind, rank: int) -> None:
    failure = diagnose(_group(failures), AT_7, checkpoint=5)
    assert (failure.kind, failure.rank, failure.step, failure.checkpoint) == (kind, rank, 7, 5)


def test_a_worker_that_fell_silent_is_named_when_the_others_waited_in_vain() -> None:
    failure = diagnose(_group({0: TIMED_OUT}), _silent(1))
    assert (failure.kind, failure.rank) == (Kind.HANG, 1)
    assert failure.message == (
        "the others waited for it in vain: its last sign of life is 9 s old, at step 7, phase step"
    )
    timeout = BroadcastCollectiveTimeoutError(time_elapsed=4.0, missing_ranks=[1], timeout_s=4.0)
    assert diagnose(_group({0: timeout}), _silent(1)).kind is Kind.HANG


def test_a_worker_that_is_behind_is_named_although_it_lives() -> None:
    behind = replace(AT_7, beats={**AT_7.beats, 1: Beat(node="b", step=7, phase="data", silent_s=0.5)})
    failure = diagnose(_group({0: TIMED_OUT}), behind)
    assert (failure.kind, failure.rank) == (Kind.HANG, 1)
    assert failure.message == "the others waited for it in vain: it still runs, at step 7, phase data"


def test_a_worker_that_hangs_before_the_first_step_is_named() -> None:
    view = View(size=2, beats={0: Beat(node="a", phase="ready"), 1: Beat(node="b", phase="start")})
    failure = diagnose(_group({0: TIMED_OUT}), view)
    assert (failure.kind, failure.rank, failure.step) == (Kind.HANG, 1, None)
    assert failure.message == "the others waited for it in vain: it still runs, at step 0, phase start"


def test_settings_are_right_once_a_worker_trains() -> None:
    assert not has_trained(View())
    assert not has_trained(View(beats={0: Beat(phase="start"), 1: Beat(phase="ready")}))
    assert has_trained(View(beats={0: Beat(phase="ready"), 1: Beat(phase="data")}))
    assert has_trained(AT_7)


def test_nobody_is_accused_where_nobody_is_behind() -> None:
    failure = diagnose(_group({0: TIMED_OUT, 1: TIMED_OUT}), AT_7)
    assert (failure.kind, failure.rank) == (Kind.HANG, None)
    assert failure.message == "the workers waited for each other in vain, and none is behind the others"


def test_a_lost_connection_is_the_death_of_the_silent_worker() -> None:
    failure = diagnose(_group({0: CLOSED}), _silent(1))
    assert (failure.kind, failure.rank) == (Kind.WORKER_DEATH, 1)


def test_a_lost_node_is_not_the_worker_s_failure() -> None:
    each: list[dict[int, Exception]] = [{0: CLOSED, 1: DIED}, {0: TIMED_OUT}, {1: DIED}]
    for failures in each:
        failure = diagnose(_group(failures), AT_7, lost={"b", "elsewhere"})
        assert (failure.kind, failure.rank, failure.message) == (Kind.NODE_LOSS, 1, "node b is gone")
    assert diagnose(_group({0: CLOSED, 1: DIED}), AT_7, lost={"elsewhere"}).kind is Kind.WORKER_DEATH


def test_a_bug_is_a_bug_although_a_node_went_too() -> None:
    assert diagnose(_group({0: DataError("wrong"), 1: DIED}), AT_7, lost={"b"}).kind is Kind.INPUT


def test_preemption() -> None:
    notice = PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"b": [1]}))
    assert diagnose(notice, AT_7).kind is Kind.PREEMPTION
    taken = WorkerHealthCheckFailedError("failed", RayActorError(preempted=True))
    failure = diagnose(_group({0: CLOSED, 1: taken}), AT_7)
    assert (failure.kind, failure.rank) == (Kind.PREEMPTION, 1)


def test_what_is_not_a_worker_s() -> None:
    startup = ControllerError(WorkerGroupStartupFailedError("at least one failed to initialize"))
    failure = diagnose(startup, View())
    assert (failure.kind, failure.rank, failure.step) == (Kind.STARTUP, None, None)
    assert failure.message == "at least one failed to initialize"
    assert diagnose(ActorDiedError(), AT_7).kind is Kind.WORKER_DEATH  # Ray Train's controller
    assert diagnose(StorageError("S3 is away"), AT_7).kind is Kind.OUTAGE  # the driver's own
    full = diagnose(ControllerError(OSError(28, "No space left on device")), AT_7)  # Ray Train's books
    assert (full.kind, full.message) == (Kind.OUTAGE, "[Errno 28] No space left on device")
    assert diagnose(InputError("validation.where: no room"), View()).kind is Kind.INPUT
    assert diagnose(InputError("nothing answers"), View(), restarted=True).kind is Kind.OUTAGE


def test_settings_that_workers_trained_with_are_not_at_fault() -> None:
    gone = _group({0: InputError("s3://x: nothing answers at http://...: check AWS_ENDPOINT_URL")})
    assert diagnose(gone, AT_7).kind is Kind.INPUT
    assert diagnose(gone, AT_7, restarted=True).kind is Kind.OUTAGE
    assert diagnose(_group({0: TrainingError("not finite")}), AT_7, restarted=True).kind is Kind.INPUT


def test_a_death_is_told_in_one_sentence() -> None:
    ray_tells = (
        "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor is dead because its worker "
        "process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a "
        "connection error code 2. End of file. Some common causes include: (1) the process was killed by the OOM killer"
    )
    died = WorkerHealthCheckFailedError("failed", RayActorError(error_msg=ray_tells))
    failure = diagnose(_group({0: CLOSED, 1: died}), AT_7)
    assert str(failure) == (
        "worker death of worker 1 at step 7: Worker unexpectedly exits with a connection error code 2. End of file."
    )


def test_before_the_first_step_there_is_no_step() -> None:
    starting = View(size=1, beats={0: Beat(node="a", phase="start")})
    assert diagnose(_group({0: ValueError("bug")}), starting).step is None


def test_what_ray_wraps_is_taken_out() -> None:
    worst = DataError("train/000000.tar: s0001: its checksum is wrong")
    by_task = RayTaskError("train_worker", "Traceback ...", worst).as_instanceof_cause()
    for wrapped in (worst, by_task, UserExceptionWithTraceback(worst, "Traceback"), ControllerError(worst)):
        cause = root_cause(wrapped)
        assert type(cause) is DataError
        assert str(pickle.loads(pickle.dumps(cause))) == str(worst)  # noqa: S301


def test_contact_alone_is_lost_when_no_worker_is_known_to_have_ended() -> None:
    assert contact_lost(_group({0: CLOSED, 2: TIMED_OUT}))
    assert not contact_lost(_group({0: CLOSED, 1: DIED}))
    assert not contact_lost(ControllerError(ValueError("x")))


@pytest.mark.parametrize(
    ("places", "behind"),
    [
        ({}, []),
        ({0: (5, "step", 0.0)}, []),
        ({0: (5, "step", 0.0), 1: (5, "step", 0.9), 2: (5, "step", 0.5)}, []),
        ({0: (5, "step", 0.0), 1: (4, "validation", 0.0)}, [1]),
        ({0: (5, "step", 0.0), 1: (5, "data", 0.0), 2: (5, "data", 0.0)}, [1, 2]),
        ({0: (5, "data", 0.0), 1: (5, "step", 20.0)}, [1]),
        ({0: (5, "upload", 0.0), 1: (5, "checkpoint", 0.0)}, [1]),
        ({0: (0, "ready", 0.0), 1: (0, "start", 0.0)}, [1]),
        ({0: (0, "start", 0.0), 1: (0, "start", 9.0)}, [1]),
        ({0: (0, "data", 0.0), 1: (0, "ready", 0.0)}, [1]),
        ({0: (7, "ready", 0.0), 1: (0, "ready", 0.0)}, [1]),  # the checkpoint of step 7 does not reach it
    ],
)
def test_who_is_behind(places: dict[int, tuple[int, str, float]], behind: list[int]) -> None:
    beats = {rank: Beat(step=step, phase=phase, silent_s=silent) for rank, (step, phase, silent) in places.items()}
    assert laggards(beats) == behind


def test_a_run_is_stuck_when_nobody_comes_forward() -> None:
    still = {0: Beat(phase="step", same_s=100.0), 1: Beat(phase="data", same_s=100.0)}
    assert stuck(View(beats=still), timeout_s=60.0)
    assert not stuck(View(beats=still), timeout_s=70.0)
    assert not stuck(View(beats={**still, 2: Beat(phase="step", same_s=3.0)}), timeout_s=60.0)
    assert not stuck(View(beats={**still, 1: Beat(phase="validation", same_s=100.0)}), timeout_s=60.0)
    assert not stuck(View(), timeout_s=60.0)
