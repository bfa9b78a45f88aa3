"""From a command to the end of its first step: what the time goes to, by what the run and Ray have noted of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from pipeline import tracking
from pipeline.resume import run_store
from pipeline.timeline import EVENTS
from tests.benchmarks.training.train_run import TrainRun

IMPORTS = "of which: interpreter and imports alone"
STAGES = (
    "interpreter, imports, the data set looked up",
    "MLflow and Ray joined, the run opened in MLflow",
    "its configuration logged, the timeline opened",
    "Ray Train: workers' processes, process group",
    "setup: a worker's imports, data set, model, DDP",
    "waiting for the first batch",
    "first step",
)
_BEGINS = "RayTrainWorker.run_train_fn"
"""The task by which Ray Train starts our function in a worker."""


def stages(run: TrainRun) -> dict[str, float]:
    """Stage -> seconds, one after the other without gaps; of a run of one step.

    Of a longer one the last holds all steps up to the first that is logged.
    """
    marks = [run.began, run.announced, _opened(run), _started(run), _worker_began(run), *_loop_marks(run)]
    return {stage: after - before for stage, (before, after) in zip(STAGES, pairwise(marks), strict=True)}


def import_seconds() -> float:
    """What it takes to import all that the command's own process needs."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import workflows.cli, pipeline.launch"], check=True)
    return time.perf_counter() - began


def _opened(run: TrainRun) -> float:
    """When the run was opened in MLflow: Ray has been joined just before."""
    info = tracking.connect().get_run(run.run_id).info
    return float(info.start_time) / 1000


def _started(run: TrainRun) -> float:
    """When the driver began with the first attempt, by the run's timeline."""
    events = json.loads(run_store(os.environ["ENCNET_STORAGE"], run.name).read(EVENTS))
    return float(next(event["at"] for event in events if event["kind"] == "started"))


def _worker_began(run: TrainRun) -> float:
    """When our function began on the last of the workers, by Ray's own record of tasks."""
    begun = [task["start_time_ms"] / 1000 for task in _tasks(_BEGINS) if task["start_time_ms"]]
    return max(at for at in begun if run.began < at < min(run.times.values()))


def _tasks(name: str) -> list[dict[str, Any]]:
    """All tasks of that name, by Ray's State API.

    Not by `ray.util.state`: it sends a token only if the environment had one when Ray was imported.
    """
    filters = {"filter_keys": "name", "filter_predicates": "=", "filter_values": name}
    query = urlencode({**filters, "detail": "true", "limit": 10_000})
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    url = f"{os.environ['RAY_API_SERVER_ADDRESS']}/api/v0/tasks?{query}"
    with urlopen(Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=30) as answer:
        tasks: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
    return tasks


def _loop_marks(run: TrainRun) -> list[float]:
    """When rank 0 entered the loop, had its first batch, and had done its first steps.

    Waiting is what the loader counts as that: reading and decoding. Planning goes with the step.
    """
    step, ended = next(iter(run.times.items()))
    wait_s = run.curve("train/data_wait_share")[step].value * (ended - run.loop_began)
    return [run.loop_began, run.loop_began + wait_s, ended]
