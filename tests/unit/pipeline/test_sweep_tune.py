"""Which trials Ray Tune is handed, what becomes of them, and which it ends early, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from pipeline import sweep_tune
from pipeline.sweep_config import BudgetConfig, SchedulerConfig, SweepConfig
from pipeline.sweep_journal import open_journal
from pipeline.sweep_plan import Outcome, Score, Trial
from pipeline.sweep_trial import OUTCOME, REASON, SCORE, SHARE, STEP
from pipeline.sweep_tune import JournalSearcher, Trials, build_scheduler
from tests.unit.pipeline.small_sweep import small_sweep, trial


def _report(step: int, score: float, **more: Any) -> dict[str, Any]:
    return {STEP: step, SHARE: step / 40, SCORE: score, **more}


FAILED = {STEP: 0, SHARE: 0.0, SCORE: 0.0, OUTCOME: "failed", REASON: "ValueError: a bug"}
BROKEN_OFF = {STEP: 0, SHARE: 0.0, SCORE: 0.0, OUTCOME: "open", REASON: ""}


def _trials(folder: Path, sweep: SweepConfig) -> Trials:
    """The trials of a sweep as a driver that begins finds them."""
    journal = open_journal(str(folder), sweep.name)
    return Trials(sweep, journal, journal.trials())


def test_what_becomes_of_trials_is_kept_and_gone_on_from(tmp_path: Path) -> None:
    sweep = small_sweep(budget=BudgetConfig(trials=5))
    first = _trials(tmp_path, sweep)
    searcher = JournalSearcher(first, set)
    assert [searcher.suggest(name) for name in "abcd"] == [{"number": number} for number in range(4)]
    searcher.on_trial_result("a", _report(10, 0.2))
    searcher.on_trial_complete("a", _report(40, 0.6, **{OUTCOME: "finished", "done": True}))
    searcher.on_trial_complete("b", _report(10, 0.1, done=True))  # no outcome of its own: the scheduler ended it
    searcher.on_trial_complete("c", FAILED)
    searcher.on_trial_result("d", _report(10, 0.3))
    searcher.on_trial_complete("d", BROKEN_OFF)
    kept = open_journal(str(tmp_path), sweep.name).trials()
    assert kept == first.all()
    assert [one.outcome for one in kept] == [Outcome.FINISHED, Outcome.STOPPED, Outcome.FAILED, Outcome.OPEN]
    assert kept[0].scores == [Score(10, 0.25, 0.2), Score(40, 1.0, 0.6)]
    assert (kept[1].score, kept[2].reason, kept[3].score) == (0.1, "ValueError: a bug", 0.3)

    again = JournalSearcher(_trials(tmp_path, sweep), set)
    assert [again.suggest(name) for name in "xyz"] == [{"number": 3}, {"number": 4}, None]
    assert open_journal(str(tmp_path), sweep.name).trial(3) == kept[3], "with the values and the score it had"


def test_values_do_not_depend_on_where_the_driver_died(tmp_path: Path) -> None:
    sweep = small_sweep()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    one = _trials(whole, sweep)
    while one.begin() is not None:
        pass
    for _ in range(sweep.num_trials):
        trials = _trials(broken, sweep)
        for known in trials.all():
            if known.outcome is Outcome.OPEN:
                number = trials.begin()
                assert number == known.number
                trials.ended(known.number, Outcome.FINISHED)
        assert trials.begin() == len(trials.all()) - 1
    assert [known.values for known in _trials(broken, sweep).all()] == [known.values for known in one.all()]


def test_no_trial_begins_once_the_sweep_is_to_stop(tmp_path: Path) -> None:
    trials = _trials(tmp_path, small_sweep())
    assert trials.begin() == 0
    trials.is_stopping = True
    assert trials.begin() is None


def test_no_trial_begins_when_its_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(sweep_tune.time, "monotonic", lambda: now)
    trials = _trials(tmp_path, small_sweep(budget=BudgetConfig(trials=6, wall_s=60)))
    assert trials.begin() == 0
    now = 159.0
    assert trials.begin() == 1
    now = 161.0
    assert trials.begin() is None


def test_no_trial_begins_when_the_first_ones_all_failed(tmp_path: Path) -> None:
    trials = _trials(tmp_path, small_sweep())
    for number in range(3):
        assert trials.begin() == number
        trials.ended(number, Outcome.FAILED, "no memory")
    assert trials.begin() is None


def test_a_trial_whose_process_is_lost_for_good_has_failed(tmp_path: Path) -> None:
    trials = _trials(tmp_path, small_sweep())
    searcher = JournalSearcher(trials, set)
    searcher.suggest("a")
    searcher.on_trial_complete("a", error=True)
    assert (trials.all()[0].outcome, trials.all()[0].reason) == (Outcome.FAILED, "its process was lost again and again")


def test_tune_is_through_only_when_stopped_trials_have_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, left = 100.0, set[int]()
    monkeypatch.setattr(sweep_tune.time, "monotonic", lambda: now)
    searcher = JournalSearcher(_trials(tmp_path, small_sweep(budget=BudgetConfig(trials=3))), lambda: left)
    for name in "abc":
        searcher.suggest(name)
    searcher.on_trial_complete("a", _report(10, 0.1, done=True))
    searcher.on_trial_complete("b", _report(10, 0.1, done=True))
    left |= {0, 1}
    assert searcher.suggest("d") is None, "the third one may be ended early, too"
    left.clear()
    searcher.on_trial_complete("c", _report(40, 0.6, **{OUTCOME: "finished", "done": True}))
    assert searcher.suggest("d") is None
    left.add(0)
    assert searcher.suggest("d") is None
    now += sweep_tune.LEAVE_WITHIN_S  # the other one's process is gone, and tells nothing any more
    assert searcher.suggest("d") == Searcher.FINISHED


class _Running(NamedTuple):
    trial_id: str
    number: int = 99

    @property
    def config(self) -> dict[str, int]:
        return {"number": self.number}


def _scheduler(sweep: SweepConfig, past: list[Trial]) -> Any:
    """The scheduler, which of Tune's controller and of its trials needs only the trials' ids."""
    return build_scheduler(sweep, past)


def _ended_at(sweep: SweepConfig, past: list[Trial], scores: list[float]) -> int | None:
    """At which quarter the scheduler ends a trial with these scores; None for not."""
    scheduler, one = _scheduler(sweep, past), _Running("now")
    scheduler.on_trial_add(None, one)
    for quarter, score in enumerate(scores, 1):
        report = {SHARE: quarter / 4, SCORE: score}
        if scheduler.on_trial_result(None, one, report) == TrialScheduler.STOP:
            return quarter
    return None


PAST = [
    trial(0, Outcome.FINISHED, 0.2, 0.4, 0.5, 0.6),
    trial(1, Outcome.STOPPED, 0.1),
    trial(2, Outcome.FINISHED, 0.3, 0.5, 0.6, 0.7),
    trial(3, Outcome.FAILED, 0.9),
    trial(4, Outcome.FINISHED, 0.25, 0.45, 0.5, 0.65),
]


def test_asha_judges_by_the_trials_of_earlier_sessions() -> None:
    sweep = small_sweep(scheduler=SchedulerConfig(kind="asha", grace=0.25, reduction=2.0))
    assert _ended_at(sweep, PAST, [0.15]) == 1
    assert _ended_at(sweep, PAST, [0.28, 0.41]) == 2
    assert _ended_at(sweep, PAST, [0.28, 0.48, 0.1]) is None, "there is no rung at three quarters"
    assert _ended_at(sweep, [], [0.0, 0.0, 0.0]) is None


def test_asha_counts_steps_and_not_reports() -> None:
    """A trial that is restarted reports the same steps again: nothing that was decided is decided anew."""
    sweep = small_sweep(scheduler=SchedulerConfig(kind="asha", grace=0.25, reduction=2.0))
    scheduler, one = _scheduler(sweep, PAST), _Running("now")
    scheduler.on_trial_add(None, one)
    for _ in range(20):
        assert scheduler.on_trial_result(None, one, {SHARE: 0.25, SCORE: 0.28}) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, one, {SHARE: 0.5, SCORE: 0.41}) == TrialScheduler.STOP


def test_a_trial_that_goes_on_keeps_the_rungs_it_has_passed() -> None:
    """Else one that led might be ended by those that it ended."""
    sweep = small_sweep(scheduler=SchedulerConfig(kind="asha", grace=0.25, reduction=2.0))
    early, better_later = trial(0, Outcome.STOPPED, 0.5, 0.2), trial(1, Outcome.OPEN, 0.1, 0.6)
    scheduler, again = _scheduler(sweep, [early, better_later]), _Running("again", number=1)
    scheduler.on_trial_add(None, again)
    for share, score in ((0.25, 0.1), (0.5, 0.6), (1.0, 0.5)):
        report = {SHARE: share, SCORE: score}
        assert scheduler.on_trial_result(None, again, report) == TrialScheduler.CONTINUE
    assert _ended_at(sweep, [early], [0.1]) == 1, "a new one would have been ended"


def test_the_median_is_that_of_the_trials_of_earlier_sessions() -> None:
    sweep = small_sweep(scheduler=SchedulerConfig(kind="median", grace=0.25))
    assert _ended_at(sweep, PAST, [0.2, 0.25]) == 1
    assert _ended_at(sweep, PAST, [0.3, 0.31]) == 2
    assert _ended_at(sweep, PAST, [0.3, 0.5, 0.6]) is None
    assert _ended_at(sweep, PAST[:2], [0.0, 0.0]) is None, "too few to know"


def test_fifo_ends_none() -> None:
    assert _ended_at(small_sweep(scheduler=SchedulerConfig(kind="fifo")), PAST, [0.0, 0.0, 0.0]) is None
