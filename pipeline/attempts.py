"""The attempts at a run: each is a Ray Train run of its own, and between them the failure policy decides.

The driver's main thread watches: it shows progress, keeps the timeline, sees to signals, and finds hung workers.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from pipeline.checkpoint import BrokenCheckpoint, RunState
from pipeline.checkpoint_store import CheckpointStore, open_checkpoints
from pipeline.cluster import ANSWER_WITHIN_S, live_nodes
from pipeline.config import RunConfig
from pipeline.diagnosis import (
    FINAL,
    contact_lost,
    diagnose,
    has_trained,
    laggards,
    root_cause,
    stuck,
    worker_failures,
)
from pipeline.errors import InputError, Interrupted, StorageError, TrainingError
from pipeline.failure_policy import Action, Budgets, Failure, Kind, decide
from pipeline.progress import ProgressView
from pipeline.ray_output import sifted_output
from pipeline.run_board import ABANDON, STOP, View
from pipeline.stop_signals import StopSignals
from pipeline.timeline import Timeline
from pipeline.trainer import build_trainer, next_attempt, trainer_environment

ENDED = ("finished", "early")
"""What `RunState.ended` says of a run that has nothing more to train."""
NODE_DEATH_WITHIN_S = 45.0
"""How long the cluster may take to find that a node which fell silent is gone."""
TELL_OF_WAITING_S = 30.0
START_WITHIN_S = 30.0
"""How long workers may take to come up."""


def newest_state(checkpoints: CheckpointStore) -> RunState | None:
    """The state of the newest checkpoint whose state can be read; None where there is none."""
    for name in reversed(checkpoints.names()):
        try:
            return checkpoints.read_state(name)
        except BrokenCheckpoint:
            continue  # the workers say so, and go on from the one before
    return None


def run_attempts(
    config: RunConfig,
    run_id: str,
    timeline: Timeline,
    signals: StopSignals,
    board: Any,
    watch: Callable[[View], None] | None = None,
) -> None:
    """Train until the run has ended, through failures as far as the policy lets it go on.

    `board` is the handle of the run's board, `watch` is shown it, twice a second.

    Raises Interrupted when a signal asked for the end: the workers have written a checkpoint then, if they could.
    Raises the worker's own error for what would repeat, else TrainingError that says how to go on.
    """
    with trainer_environment(config):
        _Attempts(config, run_id, timeline, signals, board, watch or (lambda seen: None)).run()


class _Attempts:
    def __init__(
        self,
        config: RunConfig,
        run_id: str,
        timeline: Timeline,
        signals: StopSignals,
        board: Any,
        watch: Callable[[View], None],
    ) -> None:
        self._config, self._run_id, self._timeline, self._signals = config, run_id, timeline, signals
        self._board, self._watch = board, watch
        self._checkpoints = open_checkpoints(config.storage, config.name)
        workers = config.workers
        self._budgets = Budgets(
            failures=workers.max_failures, node_losses=workers.max_node_losses, preemptions=workers.max_preemptions
        )
        self._history: list[Failure] = []
        self._trained = False
        self._seen = View()
        self._step = 0  # of the newest checkpoint
        self._view = ProgressView(config.name, lambda: self._seen.facts)

    def run(self) -> None:
        with self._view, sifted_output(), self._signals.deferred():
            while True:
                self._find_step()
                nodes = live_nodes()
                self._timeline.add("resumed" if self._step else "started", step=self._step)
                error = self._attempt()
                self._view.pace.pause()
                try:
                    if error is None and self._has_ended():
                        return
                except (StorageError, InputError) as fault:
                    error = fault
                if self._signals.received:
                    raise self._stopped()
                self._recover(error or TrainingError("the workers left before the last step"), nodes)

    def _attempt(self) -> BaseException | None:
        """Run Ray Train once and watch it; returns what it failed of, None when the workers came to an end."""
        ray.get(self._board.open_attempt.remote())
        self._seen = View(facts=self._seen.facts)
        errors: list[BaseException] = []

        def fit() -> None:
            try:
                build_trainer(self._config, self._run_id, self._board, next_attempt(self._config)).fit()
            except Exception as error:  # noqa: BLE001 - handed to the main thread, which tells what it means
                errors.append(error)

        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        thread.start()
        watch = _Watch(self._config, self._board, self._timeline, self._signals, self._view)
        while thread.is_alive() and not watch.is_over:
            thread.join(0.5)
            self._seen = watch.look(self._seen)
            self._watch(self._seen)
        self._trained = self._trained or watch.has_trained
        return errors[0] if errors else None

    def _find_step(self) -> None:
        """Look up the newest checkpoint; where storage does not answer, the one that was known is told."""
        try:
            state = newest_state(self._checkpoints)
            self._step = state.step if state else 0
        except (StorageError, InputError):
            if not (self._history or self._trained):
                raise

    def _has_ended(self) -> bool:
        state = newest_state(self._checkpoints)
        self._step = state.step if state else 0
        if state and state.ended in ENDED:
            self._timeline.add("finished", "early: no better mIoU" if state.ended == "early" else "", step=state.step)
            return True
        return False

    def _stopped(self) -> Interrupted:
        assert self._signals.received
        self._find_step()
        name = self._signals.received.name
        self._timeline.add("stopped", name, step=self._step)
        return Interrupted(
            self._signals.received,
            f"stopped by {name}; the newest checkpoint is of step {self._step}: go on with "
            f"encnet train --resume {self._config.name}",
        )

    def _recover(self, error: BaseException, nodes: set[str]) -> None:
        """Wait before the next attempt; or raise what `error` comes to, when there is to be none."""
        lost = _lost_nodes(error, nodes, self._seen)
        self._find_step()
        failure = diagnose(error, self._seen, lost=lost, checkpoint=self._step, restarted=self._trained)
        self._history.append(failure)
        decision = decide(self._history, self._budgets, random.random())
        self._timeline.add("failed", str(failure), step=failure.step)
        if decision.action is Action.STOP:
            self._timeline.add("gave up", decision.reason, step=self._step)
            raise self._final(error, failure, decision.reason)
        detail = f"{decision.reason}, in {decision.wait_s:.0f} s"
        self._timeline.add("restarting", detail, step=self._step)
        self._view.say(f"{self._config.name}  {failure}: going on from step {self._step}: {detail}")
        self._signals.sleep(decision.wait_s)
        if self._signals.received:
            raise self._stopped()

    def _final(self, error: BaseException, failure: Failure, reason: str) -> Exception:
        """The worker's own error where it is one of ours that would repeat, else one that says how to go on."""
        failures = worker_failures(error)
        cause = failures[failure.rank] if failure.rank in failures else root_cause(error)
        if failure.kind is Kind.INPUT and isinstance(cause, FINAL):
            return type(cause)(*cause.args)
        return TrainingError(
            f"run {self._config.name!r}: {failure} ({failure.error}); {reason}; what is checkpointed, up to step "
            f"{self._step}, is kept in {self._checkpoints.uri()}: go on with --resume {self._config.name}"
        )


class _Watch:
    """What the driver sees to while an attempt runs."""

    def __init__(
        self, config: RunConfig, board: Any, timeline: Timeline, signals: StopSignals, view: ProgressView
    ) -> None:
        self._config, self._board, self._timeline = config, board, timeline
        self._signals, self._view = signals, view
        self._num_notes = 0
        self._asked = ""
        self._tell_at = time.monotonic() + TELL_OF_WAITING_S
        self._leave_at = 0.0
        self.size = 0
        """Workers in the group; 0 before all of them have joined."""
        self.has_trained = False
        self._step = 0
        """The most steps that a worker was seen to have done."""
        self.is_over = False
        """Whether there is nothing to wait for: the end was asked for before there were workers."""

    def look(self, before: View) -> View:
        """Read the board, and see to what it shows; `before` is what is returned when it does not answer."""
        try:
            seen: View = ray.get(self._board.look.remote(), timeout=ANSWER_WITHIN_S)
        except ray.exceptions.RayError:
            return before
        for note in seen.notes[self._num_notes :]:
            self._timeline.add(note.kind, note.detail, step=note.step, workers=self.size, at=note.at)
            self._view.say(f"{self._config.name}  {note.kind}: {note.detail}")
        self._num_notes = len(seen.notes)
        self.has_trained = self.has_trained or has_trained(seen)
        self._see_to_size(seen)
        self._step = max((self._step, *(beat.step for beat in seen.beats.values())))
        self._see_to_signals(seen)
        self._see_to_hangs(seen)
        return seen

    def _see_to_size(self, seen: View) -> None:
        if not seen.size and self._tell_at and time.monotonic() > self._tell_at:
            self._tell_at = 0.0
            free = ray.available_resources().get("CPU", 0)
            self._view.say(f"{self._config.name}  still waiting for workers; free CPUs in the cluster: {free:g}")
        if seen.size == self.size or len(seen.beats) < seen.size:
            return
        nodes = len({beat.node for beat in seen.beats.values()})
        where = f"on {nodes} node{'s' if nodes > 1 else ''}"
        if self.size:
            self._view.pace.forget()
            detail = f"{self.size} -> {seen.size} workers {where}"
            self._timeline.add("resized", detail, step=self._step, workers=seen.size)
            self._view.say(f"{self._config.name}  resized: {detail}")
        else:
            self._timeline.add("workers", where, workers=seen.size)
        self.size = seen.size

    def _see_to_signals(self, seen: View) -> None:
        received = self._signals.received
        if not received or self._asked:
            return
        if not seen.size:
            self._await_workers(received.name)
            return
        self._ask(STOP)
        self._view.say(
            f"{self._config.name}  {received.name}: the workers write a checkpoint and leave; a second one ends at once"
        )

    def _await_workers(self, received: str) -> None:
        """Let workers that are being started come up, to be asked to leave.

        If Ray Train's controller ended with this process just then, Ray might never take their places back.
        """
        now = time.monotonic()
        if not self._leave_at:
            self._leave_at = now + START_WITHIN_S
            self._view.say(
                f"{self._config.name}  {received}: waiting up to {START_WITHIN_S:.0f} s for workers that are being "
                "started, to end them; a second one ends at once"
            )
        self.is_over = now > self._leave_at

    def _see_to_hangs(self, seen: View) -> None:
        """End what neither collectives nor Ray have ended: a worker that is alone, or a loop that still answers Ray."""
        if self._asked == ABANDON or not stuck(seen, self._config.workers.collective_timeout_s):
            return
        self._ask(ABANDON)
        behind = ", ".join(map(str, laggards(seen.beats))) or "none"
        detail = f"no worker came forward for too long, and the attempt is ended; behind the others: {behind}"
        self._timeline.add("hung", detail, step=max(beat.step for beat in seen.beats.values()))
        self._view.say(f"{self._config.name}  hung: {detail}")

    def _ask(self, what: str) -> None:
        self._asked = what
        self._board.ask.remote(what)


def _lost_nodes(error: BaseException, before: set[str], seen: View) -> set[str]:
    """The nodes that have died. Where only contact was lost, silent nodes are given the time to be found dead."""
    here = ray.get_runtime_context().get_node_id()
    silent = {seen.beats[rank].node for rank in laggards(seen.beats)} - {here} if contact_lost(error) else set()
    until = time.monotonic() + NODE_DEATH_WITHIN_S
    while (live := live_nodes()) & silent and time.monotonic() < until:
        time.sleep(1)
    return before - live
