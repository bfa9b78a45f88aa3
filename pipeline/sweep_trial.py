"""One trial of a sweep, as Ray Tune runs it: the driver of a run like any other, in an actor of its own.

The run's workers are Ray Train's, with resources of their own. What the trial is, it reads from the sweep's journal:
run again after it was broken off, it tells the scores that are known already, and its run goes on from its newest
checkpoint.

It is a class, not a function: a function that Tune has decided to end is left in the middle of things, and its process
is killed before the workers have written what they hold. `cleanup` lets them leave as a run that is stopped does.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
from collections.abc import Sequence
from math import isnan
from typing import Any

import ray
from ray import tune

from pipeline import launch
from pipeline.attempts import newest_state
from pipeline.checkpoint_store import open_checkpoints
from pipeline.cluster import ANSWER_WITHIN_S
from pipeline.config import RunConfig
from pipeline.errors import Diverged, InputError, Interrupted, TrainingError, first_line
from pipeline.progress import Facts
from pipeline.resume import is_used
from pipeline.run_board import Pulse, View
from pipeline.shards import read_dataset
from pipeline.stop_signals import StopSignals
from pipeline.storage import open_store
from pipeline.sweep_config import CLASS_IOU, MIOU
from pipeline.sweep_journal import open_journal
from pipeline.sweep_plan import Outcome, Score

STEP, SHARE, SCORE, OUTCOME, REASON = "step", "share", "score", "outcome", "reason"
"""What a trial reports to Tune. Its clock is `share`, of its own steps: neither reports nor restarts count."""
LEAVE_WITHIN_S = 300.0
"""How long the workers may take to write a checkpoint and leave."""
_logger = logging.getLogger(__name__)


class SweepTrial(tune.Trainable):
    """Trains in a thread; each `step` is the next report of it."""

    def setup(self, config: dict[str, Any], *, storage: str, sweep: str, tags: dict[str, str], board: Any) -> None:  # type: ignore[override]
        """Begin. `tags` are those of the MLflow run, `board` the handle of the sweep's board."""
        logging.getLogger().setLevel(logging.WARNING)
        journal = open_journal(storage, sweep)
        self._sweep, self._trial = journal.config(), journal.trial(config["number"])
        self._board, self._tags = board, {**tags, "trial": str(self._trial.number)}
        self._facts: Facts = {}
        self._signals = StopSignals()
        self._reports: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        for score in self._trial.scores:
            self._report(score)
        self._thread = threading.Thread(target=self._run, name="trial", daemon=True)
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """Wait for the next report."""
        return self._reports.get()

    def cleanup(self) -> None:
        """Have the workers write a checkpoint and leave, where they have not left by themselves."""
        self._signals.received = self._signals.received or signal.SIGTERM
        self._thread.join(LEAVE_WITHIN_S)
        _answer(self._board.leave.remote(self._trial.number))

    def _run(self) -> None:
        with Pulse(self._tell):
            try:
                if self._tell():
                    raise Interrupted(signal.SIGTERM)
                self._train()
            except Interrupted:
                self._end(Outcome.OPEN)
            except Diverged as error:
                self._end(Outcome.DIVERGED, first_line(error))
            except Exception as error:
                _logger.exception("trial %s failed", self._trial.number)
                self._end(Outcome.FAILED, f"{type(error).__name__}: {first_line(error)}")

    def _train(self) -> None:
        config = self._sweep.trial(self._trial.number, self._trial.values)
        launch.run_training(
            config,
            resume=is_used(config.storage, config.name),
            registers=False,
            tags=self._tags,
            signals=self._signals,
            watch=self._watch,
        )
        self._report(self._last_score(config), **{OUTCOME: Outcome.FINISHED.value, "done": True})

    def _tell(self, *_: Any) -> str:
        """Show the trial on the sweep's board; take from there that the sweep is to stop."""
        asked = str(_answer(self._board.tell.remote(self._trial.number, self._facts)) or "")
        if asked:
            self._signals.received = self._signals.received or signal.SIGTERM
        return asked

    def _watch(self, seen: View) -> None:
        """Report a validation that is new; the last one of the run only when the run is through."""
        self._facts = {name: value for name, value in seen.facts.items() if name != "validated"}
        if "validated" not in seen.facts or "steps" not in seen.facts:
            return
        step, miou, iou = seen.facts["validated"]
        steps = seen.facts["steps"]
        if self._trial.step < step < steps:
            value = metric_value(self._sweep.metric, miou, iou, self._classes())
            if value is not None:
                self._report(Score(step, step / steps, value))

    def _classes(self) -> Sequence[str]:
        return read_dataset(open_store(self._sweep.run.data.uri)).classes if self._sweep.metric != MIOU else ()

    def _last_score(self, config: RunConfig) -> Score:
        """Of the validation that the run ended with, as its checkpoint has it."""
        state = newest_state(open_checkpoints(config.storage, config.name))
        if state is not None:
            value = metric_value(self._sweep.metric, state.miou, state.iou, self._classes())
            if value is not None:
                return Score(state.step, 1.0, value)
        raise TrainingError(f"run {config.name!r} ended without a score")

    def _report(self, score: Score, **more: Any) -> None:
        self._trial = self._trial.scored(score)
        self._reports.put({STEP: score.step, SHARE: score.share, SCORE: score.value, **more})

    def _end(self, outcome: Outcome, reason: str = "") -> None:
        """The last report of a trial that did not finish; without a share of the steps it ranks with no other."""
        self._reports.put({STEP: 0, SHARE: 0.0, SCORE: 0.0, OUTCOME: outcome.value, REASON: reason, "done": True})


def _answer(asked: Any) -> Any:
    """What the sweep's board gives to what it was asked; None where it does not answer."""
    try:
        return ray.get(asked, timeout=ANSWER_WITHIN_S)
    except ray.exceptions.RayError as error:
        _logger.warning("the sweep's board does not answer: %s", first_line(error))
        return None


def metric_value(metric: str, miou: float | None, iou: Sequence[float | None], classes: Sequence[str]) -> float | None:
    """The sweep's metric of a validation; None where there is no such number. Raises InputError for no such class."""
    value = miou
    if metric != MIOU:
        name = metric.removeprefix(CLASS_IOU)
        if name not in classes:
            raise InputError(f"metric: {metric!r}: the data set has the classes {', '.join(classes)}")
        value = iou[list(classes).index(name)] if iou else None
    return None if value is None or isnan(value) else float(value)
