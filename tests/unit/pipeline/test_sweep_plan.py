"""What follows from what a sweep knows of its trials."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sweep_plan import (
    HOPELESS_AFTER,
    Outcome,
    Score,
    Trial,
    best,
    is_hopeless,
    leaderboard,
    max_concurrent,
    next_trial,
    reopened,
)
from tests.unit.pipeline.small_sweep import trial

_OUTCOMES = st.lists(st.sampled_from(Outcome), max_size=8)


@given(_OUTCOMES, st.sets(st.integers(0, 7)), st.integers(0, 12))
def test_open_trials_go_first_and_none_that_ended_is_repeated(
    outcomes: list[Outcome], under_way: set[int], num_trials: int
) -> None:
    trials = [trial(number, outcome) for number, outcome in enumerate(outcomes)]
    chosen = next_trial(trials, under_way, num_trials)
    left = [one.number for one in trials if one.outcome is Outcome.OPEN and one.number not in under_way]
    if left:
        assert chosen == left[0]
    elif len(trials) < num_trials:
        assert chosen == len(trials)
    else:
        assert chosen is None


def test_every_trial_is_run_once_however_often_the_driver_dies() -> None:
    """Trials end in any order; the driver is lost after each end, and what was under way is run again."""
    for order in permutations(range(4)):
        trials: dict[int, Trial] = {}
        finished: list[int] = []
        for ends in order:
            under_way: set[int] = set()
            while (number := next_trial(list(trials.values()), under_way, 4)) is not None:
                trials.setdefault(number, trial(number, Outcome.OPEN))
                under_way.add(number)
            assert under_way == set(range(4)) - set(finished)
            trials[ends] = trials[ends].ended(Outcome.FINISHED)
            finished.append(ends)
        assert next_trial(list(trials.values()), set(), 4) is None


def test_scores_come_in_the_order_of_steps_and_once() -> None:
    one = trial(0, Outcome.OPEN, 0.2)
    assert one.scored(Score(10, 0.25, 0.9)) is one
    later = one.scored(Score(20, 0.5, 0.1))
    assert (later.score, later.step, later.share) == (0.2, 20, 0.5)
    assert Trial.from_dict(later.to_dict()) == later
    assert (trial(1, Outcome.OPEN).score, trial(1, Outcome.OPEN).step) == (None, 0)


def test_the_best_is_one_that_went_to_its_end() -> None:
    stopped = trial(0, Outcome.STOPPED, 0.9)
    trials = [
        stopped,
        trial(1, Outcome.FINISHED, 0.4),
        trial(2, Outcome.FINISHED, 0.5),
        trial(3, Outcome.FINISHED, 0.5),
    ]
    found = best(trials)
    assert found is not None
    assert found.number == 2
    assert best([stopped, trial(1, Outcome.DIVERGED), trial(2, Outcome.OPEN, 0.3)]) is None


def test_the_leaderboard_puts_first_who_came_far() -> None:
    trials = [
        trial(0, Outcome.FAILED),
        trial(1, Outcome.STOPPED, 0.1, 0.3),
        trial(2, Outcome.STOPPED, 0.9),
        trial(3, Outcome.FINISHED, 0.2),
        trial(4, Outcome.DIVERGED, 0.1),
        trial(5, Outcome.FINISHED, 0.1, 0.6),
        trial(6, Outcome.OPEN),
    ]
    assert [one.number for one in leaderboard(trials)] == [5, 3, 1, 2, 6, 4, 0]


def test_a_sweep_is_hopeless_when_the_first_trials_fail_and_no_other_way() -> None:
    failed = [trial(number, Outcome.FAILED) for number in range(HOPELESS_AFTER)]
    assert is_hopeless(failed)
    assert is_hopeless([*failed, trial(7, Outcome.OPEN)])
    assert not is_hopeless(failed[1:])
    assert not is_hopeless([*failed, trial(7, Outcome.DIVERGED)])
    assert not is_hopeless([])


def test_failed_trials_are_reopened_with_what_they_had() -> None:
    trials = [trial(0, Outcome.FAILED, 0.3, reason="lost"), trial(1, Outcome.DIVERGED), trial(2, Outcome.FINISHED, 0.1)]
    (again,) = reopened(trials)
    assert again == trial(0, Outcome.OPEN, 0.3)


@pytest.mark.parametrize(
    ("nodes", "needs", "workers", "expected"),
    [
        ([{"CPU": 4.0}], {"CPU": 1.0}, 2, 2),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2.0}, 1, 2),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2.0}, 3, 0),
        ([{"CPU": 64.0, "GPU": 8.0}, {"CPU": 64.0}], {"CPU": 4.0, "GPU": 1.0}, 4, 2),
        ([{"CPU": 6.0, "GPU": 8.0}], {"CPU": 4.0, "GPU": 1.0}, 1, 1),
        ([], {"CPU": 1.0}, 1, 0),
    ],
)
def test_so_many_trials_fit(
    nodes: list[dict[str, float]], needs: dict[str, float], workers: int, expected: int
) -> None:
    assert max_concurrent(nodes, needs, workers) == expected


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 4))
def test_all_that_fit_are_placed_in_whatever_order_workers_come(cpus: list[int], each: int, workers: int) -> None:
    """Worker by worker onto the first node with room: so many trials get all of theirs, and one more would not."""
    count = max_concurrent([{"CPU": float(cpu)} for cpu in cpus], {"CPU": float(each)}, workers)
    free = list(cpus)

    def place() -> bool:
        node = next((node for node, left in enumerate(free) if left >= each), None)
        if node is not None:
            free[node] -= each
        return node is not None

    assert all(place() for _ in range(count * workers))
    assert not all(place() for _ in range(workers))
