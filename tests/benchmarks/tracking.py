"""What a sweep's logging costs MLflow: a thousand trials' points written to a local server, and how it lists them then.

python -m tests.benchmarks.tracking [--small]

The server is `mlflow server` on SQLite, one worker, on this machine, as in the local stack. Each trial is a run below
the sweep's, with the parameters of a recipe, and points as training sends them: every 5 steps, in requests of up to
500 values, as checkpoints let them go.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from mlflow import MlflowClient
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pipeline import tracking
from pipeline.config import RunConfig
from pipeline.delivery import Delivery, Points
from pipeline.environment import overridden
from pipeline.outbox import batch_size
from tests.benchmarks import measure
from tests.integration.lone_mlflow import lone_mlflow
from workflows.recipes.context_scenes import context_scenes_r18

EVERY_STEPS = 5
NAMES = (
    *("train/loss", "train/loss_pixel", "train/loss_aux", "train/loss_se", "train/lr", "train/images_per_s"),
    *("train/data_wait_share", "train/read_mb_per_s", "train/epoch", "train/grad_norm", "train/world_size", "val/miou"),
)
FULL, SMALL = (1000, 200), (5, 20)
"""Trials, and steps of each."""
PAGE = 100
"""Runs that the UI asks for at once."""
ASKED = 9


def tables(small: bool) -> Iterator[Table]:
    """A table for writing and one for reading."""
    num_trials, steps = SMALL if small else FULL
    print(measure.hardware())
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="encnet-bench-"))
        server = stack.enter_context(lone_mlflow(Path(folder)))
        stack.enter_context(overridden({"MLFLOW_TRACKING_URI": server.uri}))
        client = tracking.connect()
        parent = tracking.new_run(client, "bench", "sweep", {"kind": "sweep"})
        began = time.perf_counter()
        numbers = track(range(num_trials), description="trials", console=Console(stderr=True))
        seconds = [_log_trial(client, parent, number, steps) for number in numbers]
        yield _writing(seconds, time.perf_counter() - began, steps)
        yield _reading(client, parent)


def _log_trial(client: MlflowClient, parent: str, number: int, steps: int) -> dict[str, float]:
    """Write one trial's run as training does; seconds by what was done."""
    rng = random.Random(number)
    config = context_scenes_r18().override({"optim.lr": 10 ** rng.uniform(-4, -1)})
    took: dict[str, float] = {}

    def timed(what: str, action: Callable[[], object]) -> None:
        began = time.perf_counter()
        action()
        took[what] = took.get(what, 0.0) + time.perf_counter() - began

    tags = {"mlflow.parentRunId": parent, "sweep": "bench", "trial": str(number)}
    run_id = ""

    def begin() -> None:
        nonlocal run_id
        run_id = tracking.open_run(client, "bench", f"bench-{number:03d}", tags)
        tracking.Tracker(run_id).log_config(config.to_dict(), tags)

    timed("begin a run, its parameters and tags", begin)
    delivery, ready = Delivery(run_id), list(_points(config, rng, steps))
    while ready:
        size = batch_size(ready)
        batch, ready = ready[:size], ready[size:]
        timed("points", lambda batch=batch: delivery.points(batch))  # type: ignore[misc]
    timed("end a run", lambda: tracking.Tracker(run_id).finish())
    return took


def _points(config: RunConfig, rng: random.Random, steps: int) -> Iterator[Points]:
    for step in range(EVERY_STEPS, steps + 1, EVERY_STEPS):
        yield Points.now(step, {name: rng.random() * config.optim.lr for name in NAMES})


def _writing(seconds: list[dict[str, float]], whole: float, steps: int) -> Table:
    table = Table("what", title=f"Writing {len(seconds):,} trials of {steps} steps, {len(NAMES)} values every 5 steps")
    for heading in ("ms (median)", "ms (first 100)", "ms (last 100)"):
        table.add_column(heading, justify="right")
    for what in seconds[0]:
        every = [1000 * one[what] for one in seconds]
        table.add_row(what, *(f"{statistics.median(part):.1f}" for part in (every, every[:100], every[-100:])))
    per_step = [1000 * one["points"] / steps for one in seconds]
    medians = (f"{statistics.median(part):.3f}" for part in (per_step, per_step[:100], per_step[-100:]))
    table.add_row("points, of one step", *medians)
    table.caption = f"{whole:.0f} s in all, one trial after the other"
    return table


def _reading(client: MlflowClient, parent: str) -> Table:
    experiment = client.get_run(parent).info.experiment_id
    best = ["metrics.`val/miou` DESC"]
    below = f"tags.`mlflow.parentRunId` = '{parent}'"
    asked: dict[str, Callable[[], object]] = {
        f"a page of {PAGE} runs, the newest first": lambda: client.search_runs([experiment], max_results=PAGE),
        f"a page of {PAGE} runs, the best first": lambda: client.search_runs(
            [experiment], "", order_by=best, max_results=PAGE
        ),
        "the trials of a sweep, up to 1,000": lambda: client.search_runs([experiment], below, max_results=1000),
        "a run by its name": lambda: client.search_runs([experiment], f"tags.`{tracking.RUN_TAG}` = 'bench-003'"),
        "the curve of one metric": lambda: client.get_metric_history(_first(client, experiment), "train/loss"),
    }
    table = Table("what", title="Reading, as the UI and a resumed sweep do")
    table.add_column("ms (median)", justify="right")
    for what, action in asked.items():
        times = []
        for _ in range(ASKED):
            began = time.perf_counter()
            action()
            times.append(1000 * (time.perf_counter() - began))
        table.add_row(what, f"{statistics.median(times):.0f}")
    return table


def _first(client: MlflowClient, experiment: str) -> str:
    found = client.search_runs([experiment], f"tags.`{tracking.RUN_TAG}` = 'bench-003'", max_results=1)
    return str(found[0].info.run_id)


if __name__ == "__main__":
    measure.main(__doc__, tables)
