"""The failure policy: what stops a run, what it recovers from, and that it can't go round for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.failure_policy import Action, Budgets, Decision, Failure, Kind, decide

BUDGETS = Budgets(failures=2, node_losses=3, preemptions=4)
DEATH = Failure(kind=Kind.WORKER_DEATH, rank=1, error="ActorDiedError", message="killed", step=7)
ERROR = Failure(kind=Kind.WORKER_ERROR, rank=0, error="ValueError", message="no such class 7", step=7)


def _decide(*history: Failure) -> Decision:
    return decide(history, BUDGETS)


@pytest.mark.parametrize(
    ("history", "action", "reason"),
    [
        ([replace(ERROR, kind=Kind.INPUT)], Action.STOP, "it would fail again"),
        ([ERROR], Action.RESUME, "restart 1 of at most 2 in a row"),
        ([ERROR, ERROR], Action.STOP, "the same ValueError at step 7 for the second time: it is not by chance"),
        ([ERROR, DEATH, ERROR], Action.STOP, "the same ValueError at step 7 for the second time: it is not by chance"),
        # a checkpoint between the two does not make it another bug
        ([ERROR, replace(ERROR, checkpoint=6)], Action.STOP, "the same ValueError at step 7 for the second time"),
        ([ERROR, replace(ERROR, step=8)], Action.RESUME, "restart 2 of at most 2 in a row"),
        ([ERROR, replace(ERROR, error="KeyError")], Action.RESUME, "restart 2 of at most 2 in a row"),
        ([ERROR, replace(ERROR, message="no such file")], Action.RESUME, "restart 2 of at most 2 in a row"),
        ([ERROR, replace(ERROR, message="no such class 9")], Action.STOP, "the same ValueError at step 7"),
        ([replace(ERROR, step=None)] * 2, Action.STOP, "the same ValueError before the first step for the second time"),
        # what dies or does not answer at the same step twice may be chance
        ([DEATH, DEATH], Action.RESUME, "restart 2 of at most 2 in a row"),
        ([replace(ERROR, kind=Kind.OUTAGE)] * 2, Action.RESUME, "restart 2 of at most 2 in a row"),
        ([DEATH] * 3, Action.STOP, "3 of this kind in a row without a new checkpoint, and 2 are recovered from"),
        ([DEATH, DEATH, replace(DEATH, checkpoint=5)], Action.RESUME, "restart 1 of at most 2 in a row"),
        ([replace(DEATH, kind=Kind.NODE_LOSS)] * 3, Action.RESUME, "restart 3 of at most 3 in a row"),
        ([replace(DEATH, kind=Kind.NODE_LOSS)] * 4, Action.STOP, "4 of this kind in a row"),
        ([replace(DEATH, kind=Kind.PREEMPTION)] * 4, Action.RESUME, "restart 4 of at most 4 in a row"),
        ([replace(DEATH, kind=Kind.PREEMPTION)] * 4 + [DEATH], Action.RESUME, "restart 1 of at most 2 in a row"),
    ],
)
def test_what_is_decided(history: list[Failure], action: Action, reason: str) -> None:
    decision = _decide(*history)
    assert decision.action is action
    assert decision.reason.startswith(reason)


def test_waits_grow_and_are_spread() -> None:
    budgets = Budgets(failures=20)
    waits = [decide([DEATH] * count, budgets).wait_s for count in range(1, 12)]
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(waits) == 120.0
    assert decide([DEATH], budgets, chance=0.0).wait_s == 0.75
    assert 1.2 < decide([DEATH], budgets, chance=0.999).wait_s < 1.25
    assert decide([replace(DEATH, kind=Kind.OUTAGE)], budgets).wait_s == 10.0


def test_a_failure_in_words() -> None:
    assert str(DEATH) == "worker death of worker 1 at step 7: killed"
    assert str(Failure(kind=Kind.STARTUP, message="no room")) == "startup before the first step: no room"


failures = st.builds(
    Failure,
    kind=st.sampled_from(Kind),
    rank=st.none() | st.integers(0, 3),
    error=st.sampled_from(["ValueError", "RuntimeError"]),
    message=st.sampled_from(["a", "b"]),
    step=st.none() | st.integers(0, 5),
    checkpoint=st.integers(0, 3),
)
budgets = st.builds(Budgets, failures=st.integers(0, 4), node_losses=st.integers(0, 4), preemptions=st.integers(0, 4))


@given(st.lists(failures, min_size=1, max_size=12), budgets, st.floats(0, 1, exclude_max=True))
def test_any_history_gives_a_decision_with_its_reason(history: list[Failure], budgets: Budgets, chance: float) -> None:
    decision = decide(history, budgets, chance)
    assert decision.reason
    assert 0 <= decision.wait_s <= 150
    if history[-1].kind is Kind.INPUT:
        assert decision.action is Action.STOP


@given(st.lists(failures, min_size=1, max_size=40), budgets)
def test_without_progress_it_ends(history: list[Failure], budgets: Budgets) -> None:
    stuck = [replace(failure, checkpoint=2) for failure in history]
    restarts = 0
    for count in range(1, len(stuck) + 1):
        if decide(stuck[:count], budgets).action is Action.STOP:
            break
        restarts += 1
    assert restarts <= budgets.failures + budgets.node_losses + budgets.preemptions


@given(st.lists(failures, max_size=12), failures, budgets)
def test_a_new_checkpoint_gives_the_whole_budget_back(before: list[Failure], last: Failure, budgets: Budgets) -> None:
    last = replace(last, kind=Kind.WORKER_DEATH, checkpoint=9)
    expected = Action.RESUME if budgets.failures else Action.STOP
    assert decide([*before, last], budgets).action is expected


@given(st.lists(failures, max_size=12), failures, budgets)
def test_lost_nodes_use_up_nothing_of_the_workers_budget(
    history: list[Failure], last: Failure, budgets: Budgets
) -> None:
    last = replace(last, kind=Kind.HANG)
    without = [one for one in history if one.kind not in (Kind.NODE_LOSS, Kind.PREEMPTION)]
    assert decide([*history, last], budgets) == decide([*without, last], budgets)
