"""Drills: runs of one tiny recipe on hosts that fail, each judged against the same run left alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from pipeline.checkpoint import RunState
from tests.drills import results
from tests.drills.ray_hosts import RayHosts
from tests.integration.conftest import BATCH_SIZE, TINY
from tests.integration.running import STORAGE, Run, running

DATA = "s3://encnet/drills/hosts"
NUM_TRAIN = 40
SIZES = (f"--train-samples={NUM_TRAIN}", "--val-samples=4")
STEPS, MOST_STEPS = 60, 180
"""Of most drills; and of the longest, of which the undisturbed run is."""
OPTIONS = (
    f"--data={DATA}",
    "--optim.schedule=constant",  # so that the first steps of the longest run are those of a shorter one
    "--optim.lr=4e-6",  # on another number of workers rounding differs, and a larger rate magnifies that
    "--validation.every-epochs=100",
    "--checkpoint.every-s=3",
    "--checkpoint.record-samples=true",
    "--workers.collective-timeout-s=30",
)
LOG_EVERY_STEPS = 5
ABOUT = (
    f"runs of {STEPS} to {MOST_STEPS} steps of {BATCH_SIZE} samples on two workers, each on a host of its own, a "
    "network namespace, a checkpoint every 3 s, against the same run left alone. A run has recovered when storage has "
    "a checkpoint of a later step than was done when the fault came."
)


@dataclass
class Drills:
    """The cluster they are on, what they are judged by, and what was found."""

    cluster: RayHosts
    folder: Path
    small_disk: Path
    """A file system of its own, of next to no size."""
    found: list[results.Found] = field(default_factory=list)
    undisturbed: RunState = field(init=False)
    """The last state of the run left alone."""

    def leave_alone(self) -> None:
        """Do the run that the others are compared with."""
        with self.run("left-alone", steps=MOST_STEPS) as run:
            run.result()
            self.undisturbed = last_state(run)
        steps, per_epoch = self.undisturbed.sample_ids, NUM_TRAIN // BATCH_SIZE
        for first in range(0, MOST_STEPS, per_epoch):
            assert sorted(chain(*steps[first : first + per_epoch])) == list(range(NUM_TRAIN))

    @contextmanager
    def run(self, name: str, *options: str, steps: int = STEPS, storage: str = STORAGE) -> Iterator[Run]:
        """The run called `name`, under way on the head host."""
        command = (*TINY, *OPTIONS, f"--name={name}", f"--optim.max-steps={steps}", f"--storage={storage}", *options)
        with self._running(command, name, self.folder / name, storage) as run:
            yield run

    @contextmanager
    def resumed(self, name: str) -> Iterator[Run]:
        """The same run, gone on with by hand."""
        command = ("train", f"--resume={name}", "--json")
        with self._running(command, name, self.folder / f"{name}-resumed", STORAGE) as run:
            yield run

    @contextmanager
    def _running(self, command: tuple[str, ...], name: str, folder: Path, storage: str) -> Iterator[Run]:
        whole = self.cluster.head.command(sys.executable, "-m", "workflows.cli", *command)
        with running(whole, name, folder, storage=storage, environ=self.cluster.environ) as run:
            yield run

    @property
    def mlflow(self) -> MlflowClient:
        """The way to the server that is always open."""
        return MlflowClient(self.cluster.environ["MLFLOW_TRACKING_URI"])

    def point_steps(self, run_id: str) -> dict[str, list[int]]:
        """Metric -> the steps of its points in MLflow, of what the loop measures."""
        names = [name for name in self.mlflow.get_run(run_id).data.metrics if name.startswith(("train/", "val/"))]
        return {name: [point.step for point in self.mlflow.get_metric_history(run_id, name)] for name in names}

    def judge(self, drill: str, run: Run, *, recovery_s: float, redone: int | None, steps: int = STEPS) -> None:
        """Wait for the end of a run that recovered; note what was found, and assert that nothing was lost."""
        result = run.result()
        state, histories = last_state(run), self.point_steps(result["run_id"])
        lost, repeated = results.count_samples(state.sample_ids, self.undisturbed.sample_ids[:steps])
        differing, final = results.compare(result["losses"], self.undisturbed.losses[:steps])
        found = results.Found(
            drill=drill,
            lost=lost,
            repeated=repeated,
            differing=differing,
            final=final,
            recovery_s=recovery_s,
            redone=redone,
            twice=results.count_twice(histories),
        )
        self.found.append(found)
        print(f"\n{found}\n{run.events()}")
        assert result["steps"] == state.step == steps
        assert (lost, repeated, differing, found.twice) == (0, 0, 0, 0)
        assert final < results.TOLERANCE
        logged = range(LOG_EVERY_STEPS, steps + 1, LOG_EVERY_STEPS)
        assert sorted(histories["train/loss"]) == list(logged), "points are missing in MLflow"


def seconds_to_recover(run: Run, fault_at: float) -> float:
    """Wait until a run has recovered from a fault of that time that ends an attempt; the seconds since the fault."""

    def failures() -> list[dict[str, Any]]:
        return [event for event in run.events("failed") if event["at"] > fault_at]

    def resumed_at() -> list[int]:
        return [event["step"] for event in run.events("resumed") if event["at"] > failures()[0]["at"]]

    run.wait_for("the failure to be noticed", failures)
    run.wait_for("the next attempt", resumed_at)
    # The last sign of life may be older than the newest checkpoint.
    run.wait_for_checkpoint(after=max(failures()[0]["step"] or 0, resumed_at()[0]))
    return time.time() - fault_at


def num_redone(run: Run) -> int:
    """Steps that the attempts so far did again, as the run's timeline has them."""
    redone, done = 0, 0
    for event in run.events():
        if event["kind"] in ("failed", "stopped"):
            done = event["step"] or 0
        elif event["kind"] == "resumed":
            redone += max(0, done - event["step"])  # the last sign of life is a second old
    return redone


def last_state(run: Run) -> RunState:
    """What stands in the newest checkpoint of a run."""
    return run.checkpoints.read_state(run.checkpoints.names()[-1])
