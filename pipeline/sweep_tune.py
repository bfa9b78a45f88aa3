"""Ray Tune's part in a sweep: which trial runs when, and which is ended early.

Tune keeps nothing that a sweep is resumed from: its own records are pickles, and reading those from storage would run
whatever stands in them. The journal takes their place, and Tune begins anew with what it says.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from pipeline.cluster import ANSWER_WITHIN_S
from pipeline.environment import overridden
from pipeline.sweep_config import SweepConfig
from pipeline.sweep_journal import Journal
from pipeline.sweep_plan import Outcome, Score, Trial, is_hopeless, next_trial
from pipeline.sweep_suggest import suggest
from pipeline.sweep_trial import LEAVE_WITHIN_S, OUTCOME, REASON, SCORE, SHARE, STEP, SweepTrial

DRIVER_BYTES = 512 << 20
"""What a trial's own process takes, besides its workers: Tune places it by that, and it takes no CPU from them."""
LOST_DRIVERS = 3
"""How often a trial whose process was lost, with its node, is run again."""
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one has a banner that nothing switches off
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed has no score
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a path of the user's is relative to where the user is
}


class Trials:
    """The trials of a sweep as they go on: each change is kept in the journal before anything follows from it."""

    def __init__(self, config: SweepConfig, journal: Journal, known: Iterable[Trial] = ()) -> None:
        self._config, self._journal = config, journal
        self._all: Mapping[int, Trial] = {one.number: one for one in known}
        self._under_way: set[int] = set()
        self._began = time.monotonic()
        self.is_stopping = False
        """Whether no further trial is to begin."""

    @property
    def are_under_way(self) -> bool:
        """Whether any trial runs."""
        return bool(self._under_way)

    def all(self) -> list[Trial]:
        """All that were begun. May be called by any thread."""
        return list(self._all.values())

    def begin(self) -> int | None:
        """Choose the next trial and its values; None when there is none, or none is to begin any more."""
        wall_s = self._config.budget.wall_s
        is_late = wall_s and time.monotonic() - self._began > wall_s
        if self.is_stopping or is_late or is_hopeless(self.all()):
            return None
        number = next_trial(self.all(), self._under_way, self._config.num_trials)
        if number is None:
            return None
        if number not in self._all:
            self._keep(Trial(number=number, values=suggest(self._config, self.all(), number)))
        self._under_way.add(number)
        return number

    def scored(self, number: int, score: Score) -> None:
        """A trial was validated."""
        before = self._all[number]
        after = before.scored(score)
        if after is not before:
            self._keep(after)

    def ended(self, number: int, outcome: Outcome, reason: str = "") -> None:
        """A trial runs no more."""
        self._under_way.discard(number)
        if outcome is not Outcome.OPEN:
            self._keep(self._all[number].ended(outcome, reason))

    def _keep(self, trial: Trial) -> None:
        self._journal.keep(trial)
        self._all = {**self._all, trial.number: trial}  # not changed in place: other threads read it


class JournalSearcher(Searcher):
    """Hands Tune the trials that `Trials` chooses, and hands back what becomes of them."""

    def __init__(self, trials: Trials, left: Callable[[], Collection[int]]) -> None:
        super().__init__()
        self._trials, self._left = trials, left
        self._numbers: dict[str, int] = {}
        """By Tune's own id of a trial, which is another each time."""
        self._stopped: dict[int, float] = {}
        """When the scheduler ended a trial, as long as its process may be there."""

    def suggest(self, trial_id: str) -> Any:
        """The number of the next trial, that there is none, or None: not yet.

        Tune gives the processes of ended trials some seconds once the last one has ended, and then kills them: those
        that the scheduler ended are waited for.
        """
        number = self._trials.begin()
        if number is None:
            return None if self._trials.are_under_way or self._are_leaving() else Searcher.FINISHED
        self._numbers[trial_id] = number
        return {"number": number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report after which the trial goes on."""
        if result[STEP]:
            self._trials.scored(self._numbers[trial_id], Score(result[STEP], result[SHARE], result[SCORE]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The last report of a trial, or one after which the scheduler ended it."""
        number = self._numbers[trial_id]
        if error or not result:
            self._trials.ended(number, Outcome.FAILED, "its process was lost again and again")
            return
        self.on_trial_result(trial_id, result)
        outcome = Outcome(result.get(OUTCOME, Outcome.STOPPED))
        if outcome is Outcome.STOPPED:
            self._stopped[number] = time.monotonic()
        self._trials.ended(number, outcome, result.get(REASON, ""))

    def _are_leaving(self) -> bool:
        """Whether trials that were stopped are still writing what they hold."""
        now, left = time.monotonic(), self._left() if self._stopped else ()
        self._stopped = {
            number: since
            for number, since in self._stopped.items()
            if number not in left and now - since < LEAVE_WITHIN_S
        }
        return bool(self._stopped)

    def save(self, checkpoint_path: str) -> None:
        """The journal is what is kept."""

    def restore(self, checkpoint_path: str) -> None:
        """The journal is what is kept."""


def run_trials(
    config: SweepConfig, trials: Trials, *, tags: Mapping[str, str], board: Any, num_concurrent: int
) -> None:
    """Run trials, so many at once, until there is none to begin. Returns when the last has ended.

    `tags` are those of the trials' MLflow runs, `board` the handle of the sweep's board.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what a trial fails of is told by the sweep
    parameters = {"storage": config.run.storage, "sweep": config.name, "tags": dict(tags), "board": board}
    trainable = tune.with_resources(tune.with_parameters(SweepTrial, **parameters), {"memory": DRIVER_BYTES})
    with overridden(_ENVIRONMENT), tempfile.TemporaryDirectory(prefix="encnet-tune-") as folder:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=JournalSearcher(trials, lambda: _left(board)),
                scheduler=build_scheduler(config, trials.all()),
                max_concurrent_trials=num_concurrent,
            ),
            run_config=tune.RunConfig(
                name=config.name,
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=LOST_DRIVERS),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # Tune has none of ours
            ),
        ).fit()


def _left(board: Any) -> Collection[int]:
    try:
        return cast(Collection[int], ray.get(board.left.remote(), timeout=ANSWER_WITHIN_S))
    except ray.exceptions.RayError:
        return ()  # asked again


@dataclass(frozen=True)
class _Past:
    """A trial of an earlier session, as far as a scheduler needs to know it."""

    number: int

    @property
    def trial_id(self) -> str:
        return str(self.number)

    @property
    def config(self) -> dict[str, int]:
        return {"number": self.number}


class _Asha(AsyncHyperBandScheduler):
    """ASHA that knows what trials of earlier sessions reported; one that goes on keeps the rungs it has passed.

    It tells its scores again, and trials that came by since would fail it: in the end there might be none that was
    let through to its last step.
    """

    def __init__(self, known: Mapping[int, Sequence[Mapping[str, float]]], **options: Any) -> None:
        super().__init__(**options)
        self._known = known

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial in, and what it reported before, whatever would be decided on that now."""
        super().on_trial_add(tune_controller, trial)
        for result in self._known.get(trial.config["number"], ()):
            super().on_trial_result(tune_controller, trial, dict(result))


def build_scheduler(config: SweepConfig, trials: Iterable[Trial]) -> TrialScheduler:
    """The scheduler, which knows the scores of the trials of earlier sessions."""
    chosen = config.scheduler
    if chosen.kind == "fifo":
        return FIFOScheduler()
    # Typed as if time were whole numbers.
    common: dict[str, Any] = {"time_attr": SHARE, "metric": SCORE, "mode": "max", "grace_period": chosen.grace}
    known = [(one, [{SHARE: score.share, SCORE: score.value} for score in one.scores]) for one in trials]
    ended = (Outcome.FINISHED, Outcome.STOPPED)
    past = {_Past(one.number): results for one, results in known if one.outcome in ended}
    if chosen.kind == "median":
        # A trial must not be paused for others: it would have to begin again.
        median: Any = MedianStoppingRule(**common | {"min_time_slice": math.inf})
        for trial, results in past.items():
            for result in results:
                median.on_trial_complete(None, trial, result)
        return cast(TrialScheduler, median)
    rungs = {"max_t": 1.0, "reduction_factor": chosen.reduction, "stop_last_trials": False}
    asha: Any = _Asha({one.number: results for one, results in known}, **common | rungs)
    for trial in past:
        asha.on_trial_add(None, trial)
    return cast(TrialScheduler, asha)
