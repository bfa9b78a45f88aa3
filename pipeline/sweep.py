"""A resolved sweep -> its trials run, the best one's model a candidate, and all of it in MLflow."""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray

from pipeline import launch, tracking
from pipeline.cluster import ANSWER_WITHIN_S, connect_ray, sweep_board
from pipeline.errors import InputError, Interrupted, PipelineError, TrackingError, first_line
from pipeline.progress import Facts
from pipeline.ray_output import sifted_output
from pipeline.shards import read_dataset
from pipeline.stop_signals import StopSignals
from pipeline.storage import open_store
from pipeline.sweep_board import STOP
from pipeline.sweep_config import SweepConfig
from pipeline.sweep_journal import open_journal
from pipeline.sweep_plan import Outcome, Trial, best, count, is_hopeless, leaderboard, max_concurrent, reopened
from pipeline.sweep_tracking import SweepTracker, open_sweep, tags_of_trials
from pipeline.sweep_trial import metric_value
from pipeline.sweep_tune import Trials, run_trials
from pipeline.sweep_view import SweepView
from pipeline.trainer import check_workers, worker_needs

_logger = logging.getLogger(__name__)
UPDATE_EVERY_S = 10.0
"""MLflow is told of trials that ended at most this often."""
LAST_UPDATE_PATIENCE_S = 600.0


class SweepFailed(PipelineError):
    """A sweep came to no model."""


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a finished sweep leaves."""

    name: str
    run_id: str
    run_url: str
    best: Trial
    model_uri: str
    """The best trial's registered version: models:/NAME/VERSION."""
    miou: float
    """Of the registered weights, in 0..1."""
    trials: list[Trial]
    """The best first."""


def resolve(config: SweepConfig) -> SweepConfig:
    """Fill in what depends on the surroundings and check what can be checked before anything starts.

    Raises InputError for a data set, class count, metric, storage or name that can't be used.
    """
    name = config.name or f"{config.sweep}-{datetime.datetime.now():%m%d-%H%M%S}"
    run, dataset = launch.resolve(replace(config.run, name=name))
    metric_value(config.metric, 0.0, [0.0] * len(dataset.classes), dataset.classes)
    return replace(config, name=name, run=run)


def room(config: SweepConfig) -> int:
    """How many trials may run at once on the cluster that was joined. Raises InputError where there is room for none.

    What others use now is left to them, as long as there is room for one trial beside.
    """
    check_workers(config.run)
    workers, needs = config.run.workers, worker_needs(config.run)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    by_size = max_concurrent(nodes, needs, workers.num)
    free = ray.available_resources()
    by_rest = min(int(free.get(kind, 0.0) / need + 1e-9) for kind, need in needs.items() if need > 0) // workers.num
    if by_size == 0 and workers.fewest == workers.num:
        each = " and ".join(f"{need:g} {kind}" for kind, need in needs.items())
        raise InputError(
            f"workers.num: a trial of {workers.num} workers, each with {each}, does not fit into the nodes of the "
            "cluster: ask for fewer with --num-workers"
        )
    fitting = max(1, min(by_size, by_rest))
    return min(fitting, config.budget.concurrent or fitting, config.num_trials)


def run_sweep(config: SweepConfig, *, resume: bool = False, retries_failed: bool = False) -> SweepResult:
    """Run the trials of `config` (resolved), and register the best one's model as the candidate.

    A sweep that is resumed repeats no trial that has ended, but with `retries_failed` those that failed.

    Raises InputError when the name is taken and `resume` is not asked for, or another process drives the sweep,
    SweepFailed when no trial finished, Interrupted when a signal ended it.
    """
    dataset = read_dataset(open_store(config.run.data.uri))
    client = tracking.connect()
    journal = open_journal(config.run.storage, config.name)
    if not resume and journal.exists():
        raise InputError(
            f"name: {config.name!r} is used already: go on with --resume {config.name}, or choose another --name"
        )
    connect_ray(shows_workers=False)
    with sweep_board(config.run.storage, config.name, resume=resume) as board, StopSignals() as signals:
        num_concurrent = room(config)
        known = {one.number: one for one in journal.trials()}
        if retries_failed:
            known |= {one.number: one for one in reopened(known.values())}
        journal.begin(config)
        tracker = open_sweep(client, config, dataset)
        sweep = _Sweep(config, Trials(config, journal, known.values()), tracker, signals)
        with tracking.ending(sweep.end):
            sweep.run(num_concurrent, board)
            return sweep.conclude()


class _Sweep:
    """A sweep under way: Tune runs in a thread, and the main thread watches."""

    def __init__(self, config: SweepConfig, trials: Trials, tracker: SweepTracker, signals: StopSignals) -> None:
        self._config, self._trials, self._tracker, self._signals = config, trials, tracker, signals
        self._tags = tags_of_trials(config, tracker.run_id)
        self._told: list[Trial] = []
        self._told_at = 0.0

    def run(self, num_concurrent: int, board: Any) -> None:
        """Run trials until there is none left to begin. Raises Interrupted when a signal asked for the end."""
        with SweepView(self._config) as view, sifted_output():
            view.say(f"{self._config.name}  {num_concurrent} at once; {self._tracker.url}")
            errors: list[BaseException] = []

            def tune() -> None:
                try:
                    run_trials(
                        self._config,
                        self._trials,
                        tags=self._tags,
                        board=board,
                        num_concurrent=num_concurrent,
                    )
                except Exception as error:  # noqa: BLE001 - handed to the main thread, which tells of it
                    errors.append(error)

            thread = threading.Thread(target=tune, name="ray-tune", daemon=True)
            thread.start()
            with self._signals.deferred():
                self._watch(thread, view, board)
            if errors:
                raise SweepFailed(
                    f"sweep {self._config.name!r}: {first_line(errors[0])}: {self._how_to_go_on()}"
                ) from errors[0]
            if self._signals.received:
                raise self._stopped()

    def _watch(self, thread: threading.Thread, view: SweepView, board: Any) -> None:
        """Show the trials, tell MLflow of them and see to signals, until Tune is through."""
        facts: Facts = {}
        while thread.is_alive():
            thread.join(0.5)
            try:
                facts = ray.get(board.read.remote(), timeout=ANSWER_WITHIN_S)
            except ray.exceptions.RayError as error:
                _logger.debug("the sweep's board does not answer: %s", error)
            view.show(self._trials.all(), facts)
            self._tell_mlflow()
            received = self._signals.received
            if received and not self._trials.is_stopping:
                self._trials.is_stopping = True
                board.ask.remote(STOP)
                view.say(
                    f"{self._config.name}  {received.name}: the trials write a checkpoint and leave; "
                    "a second one ends at once"
                )

    def _tell_mlflow(self) -> None:
        """Tell of trials that ended since the last time; when MLflow is away, the next time."""
        ended = [one for one in self._trials.all() if one.outcome is not Outcome.OPEN]
        if len(ended) == len(self._told) or time.monotonic() - self._told_at < UPDATE_EVERY_S:
            return
        self._told_at = time.monotonic()
        try:
            tracking.patiently(lambda: self._tracker.update(self._trials.all()), "telling of the trials", patience_s=0)
            self._told = ended
        except (TrackingError, tracking.NoServer) as error:
            _logger.warning("%s: the sweep goes on, and this is told later", first_line(error))

    def conclude(self) -> SweepResult:
        """Register the best trial's model, and complete what MLflow shows."""
        trials = self._trials.all()
        self._patiently(lambda: self._tracker.update(trials))
        winner = best(trials)
        if winner is None:
            raise SweepFailed(self._why_none(trials))
        trained = launch.run_training(
            self._config.trial(winner.number, winner.values),
            resume=True,
            tags={**self._tags, "trial": str(winner.number)},
        )
        self._patiently(lambda: self._tracker.link_best(winner, trained.model_uri, trained.run_url))
        return SweepResult(
            name=self._config.name,
            run_id=self._tracker.run_id,
            run_url=self._tracker.url,
            best=winner,
            model_uri=trained.model_uri,
            miou=trained.miou,
            trials=leaderboard(trials),
        )

    def end(self, status: str) -> None:
        """Bring the MLflow run up to date, and set its status."""
        if status != "FINISHED":
            self._tracker.update(self._trials.all())
        self._tracker.finish(status)

    def _patiently(self, action: Callable[[], None]) -> None:
        tracking.patiently(action, f"completing {self._config.name}", LAST_UPDATE_PATIENCE_S)

    def _stopped(self) -> Interrupted:
        assert self._signals.received
        trials = self._trials.all()
        ended = len(trials) - count(trials, Outcome.OPEN)
        return Interrupted(
            self._signals.received,
            f"stopped by {self._signals.received.name}; {ended} of {self._config.num_trials} trials have ended: "
            f"{self._how_to_go_on()}",
        )

    def _why_none(self, trials: list[Trial]) -> str:
        """Why there is no best trial, in a line."""
        told = next((one for one in reversed(trials) if one.reason), None)
        last = f"; trial {told.number}: {told.reason}" if told else ""
        what = "the first trials all failed" if is_hopeless(trials) else "no trial went to its end"
        return f"sweep {self._config.name!r}: {what}{last}: {self._how_to_go_on()} --retry-failed"

    def _how_to_go_on(self) -> str:
        return f"go on with encnet sweep --resume {self._config.name}"
