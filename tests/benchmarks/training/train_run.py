"""`encnet train` as a person starts it, and what it leaves in MLflow: the points of its curves, with their times."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from pipeline import tracking
from tests.benchmarks.training.job import Job

_ANNOUNCEMENT = "run "
"""How the line begins with which the command, all it needs being imported and found, starts to work."""


class Point(NamedTuple):
    """Of a curve."""

    at: float
    """When it was measured, in seconds since the epoch."""
    value: float


@dataclass(frozen=True)
class TrainRun:
    """A run that has ended."""

    name: str
    run_id: str
    began: float
    """When the command was given, in seconds since the epoch, as is:"""
    announced: float
    """when it said what it is about to do."""
    batch_size: int
    losses: list[float]
    """Of the global batch, one a step."""

    def curve(self, name: str) -> dict[int, Point]:
        """Step -> point, in order; empty where there is no such curve."""
        history = tracking.connect().get_metric_history(self.run_id, name)
        return {each.step: Point(each.timestamp / 1000, each.value) for each in sorted(history, key=lambda m: m.step)}

    @cached_property
    def times(self) -> dict[int, float]:
        """Steps done -> when that was so, in seconds since the epoch, on rank 0: at the steps that are logged."""
        return {step: point.at for step, point in self.curve("train/loss").items()}

    @cached_property
    def loop_began(self) -> float:
        """When rank 0 entered the loop, in seconds since the epoch: by the first steps' own speed, which is from there.

        Later than it was by what a checkpoint takes where one comes that early, since speeds leave pauses out.
        """
        step, speed = next(iter(self.curve("train/images_per_s").items()))
        return speed.at - step * self.batch_size / speed.value


def run_train(job: Job, workers: int) -> TrainRun:
    """Train on `workers` workers of the cluster. Raises RuntimeError with what it said when it fails."""
    name = f"overheads-{uuid.uuid4().hex[:8]}"
    command = [sys.executable, "-m", "workflows.cli", "train", *job.arguments]
    command += [f"--name={name}", "--registered-model=encnet-overheads", f"--workers.num={workers}", "--json"]
    said: list[str] = []
    announced = 0.0
    with tempfile.TemporaryFile("w+") as output:
        began = time.time()
        with subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            for line in process.stderr:
                announced = announced or (time.time() if line.startswith(_ANNOUNCEMENT) else 0.0)
                said.append(line)
        output.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}:\n{''.join(said)}")
        result = json.loads(output.read().splitlines()[-1])
    return TrainRun(name, result["run_id"], began, announced, job.config.optim.batch_size, result["losses"])
