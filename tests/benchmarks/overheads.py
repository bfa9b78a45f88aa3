"""What training costs beside training: `encnet train` against a bare loop, one worker against two, stalls, the start.

python -m tests.benchmarks.overheads [--small]

On generated scenes in a stack of its own, 2 workers of one thread each unless said otherwise. Steps a second are those
between the end of a step on rank 0 and that of a later one, on the wall clock: a bare loop notes it, of `encnet train`
it is the time of the points in MLflow, which rank 0 takes right after these steps. So all that makes a loop wait is in
it. Neither validates between them. Losses are the same on all sides. About 20 minutes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from pipeline.fit import LOG_EVERY_STEPS
from tests.benchmarks import measure
from tests.benchmarks.training.bare_loop import BareRun, run_bare
from tests.benchmarks.training.job import Job, steps_per_s
from tests.benchmarks.training.start import IMPORTS, STAGES, import_seconds, stages
from tests.benchmarks.training.train_run import TrainRun, run_train
from tests.running_stack import running_stack

RECIPE = "context_scenes_r18"
WORKERS = 2
TINY = {
    "augment.crop_size": "64,64",
    "model.output_stride": "32",
    "model.input_scale": "1",
    "model.lateral": "false",
    "model.head_channels": "32",
    "optim.kind": "sgd",
    "optim.warmup_steps": "0",
    "optim.batch_size": "4",
}
"""A network whose steps take milliseconds."""
LARGE = {
    "augment.crop_size": "192,256",
    "augment.scale_min": "2",
    "augment.scale_max": "2.2",
    "model.input_scale": "1",
    "optim.batch_size": "8",
}
"""Crops of a quarter of a real recipe's: a step takes a core about two seconds."""


class Scale(NamedTuple):
    """How much is measured; steps are multiples of LOG_EVERY_STEPS."""

    changes: Mapping[str, str]
    """Of the recipe."""
    train_samples: int
    val_samples: int
    steps: int
    warm: int
    """Of them, the first ones, which do not count."""
    rounds: int
    checkpoint_every_s: float
    checkpointed_s: float
    """How long the run with checkpoints trains, about."""


FULL = Scale(LARGE, 480, 12, 50, 10, 3, 60.0, 195.0)
SMALL = Scale(TINY, 16, 4, 15, 5, 1, 0.2, 1.0)


class Sides(NamedTuple):
    """The runs that are compared, one of each a round."""

    bare: list[BareRun]
    pair: list[TrainRun]
    """On two workers."""
    alone: list[TrainRun]
    """On one."""


def run_sides(job: Job, rounds: int) -> Sides:
    """All sides in turn, so that what slows the machine slows them all."""
    sides = Sides([], [], [])
    for _ in range(rounds):
        sides.bare.append(run_bare(job, WORKERS))
        sides.pair.append(run_train(job, WORKERS))
        sides.alone.append(run_train(job, 1))
    return sides


def loop_table(sides: Sides, warm: int) -> Table:
    """`encnet train` against the bare loop."""
    rates = {"torchrun, DDP, a bare loop": _rates(sides.bare, warm), "encnet train": _rates(sides.pair, warm)}
    return _compare(f"{WORKERS} workers of one thread", rates, "of the bare loop's")


def workers_table(sides: Sides, warm: int) -> Table:
    """Two workers against twice what one does."""
    alone, pair = _rates(sides.alone, warm), _rates(sides.pair, warm)
    rates = {"encnet train, 1 worker": alone, f"encnet train, {WORKERS} workers": pair}
    return _compare(
        f"The same batches on 1 and {WORKERS} workers of one thread", rates, "of as many times one's", WORKERS
    )


def _rates(runs: Sequence[BareRun] | Sequence[TrainRun], warm: int) -> list[float]:
    return [steps_per_s(run.times, warm) for run in runs]


def _compare(title: str, rates: Mapping[str, Sequence[float]], heading: str, times: int = 1) -> Table:
    """A row a side, with what it does of `times` what the first one does in the same round."""
    first = next(iter(rates))
    table = Table("form", title=f"{title}, {len(rates[first])} rounds")
    for column in ("steps/s (median)", "least - most", f"{heading} (median)", "least - most"):
        table.add_column(column, justify="right")
    for form, values in rates.items():
        shares = [value / (times * base) for value, base in zip(values, rates[first], strict=True)]
        table.add_row(form, *_spread(values), *(_spread(shares) if form != first else ("", "")))
    return table


def _spread(values: Sequence[float]) -> tuple[str, str]:
    """The median, and the range."""
    return f"{statistics.median(values):.3f}", f"{min(values):.3f} - {max(values):.3f}"


def checkpoint_table(run: TrainRun, every_s: float) -> Table:
    """How long the loop stood still, by its own curve; the last checkpoint, after the last step, is in no point."""
    stalls = [point.value for point in run.curve("train/checkpoint_stall_s").values()]
    seconds = max(run.times.values()) - run.loop_began
    table = Table("checkpoints", title=f"A checkpoint every {every_s:g} s, {WORKERS} workers")
    for heading in ("over seconds", "stood still, seconds", "longest", "share"):
        table.add_column(heading, justify="right")
    cells = (f"{seconds:.1f}", f"{sum(stalls):.3f}", f"{max(stalls, default=0.0):.3f}", f"{sum(stalls) / seconds:.3%}")
    table.add_row(str(len(stalls)), *cells)
    return table


def start_table(starts: Sequence[Mapping[str, float]], imports: Sequence[float]) -> Table:
    """Each stage of a start and all of it; `imports` are part of the first."""
    rows = {stage: [start[stage] for start in starts] for stage in STAGES}
    table = Table("from command to first step", title=f"{len(starts)} starts, {WORKERS} workers, the stack being up")
    for heading in ("seconds (median)", "least - most"):
        table.add_column(heading, justify="right")
    for stage, seconds in rows.items():
        table.add_row(stage, *_spread(seconds))
        if stage == STAGES[0]:
            table.add_row(f"  {IMPORTS}", *_spread(imports))
    table.add_section()
    table.add_row("all of it", *_spread([sum(start.values()) for start in starts]))
    return table


def prepare_scenes(scale: Scale) -> str:
    """Generate the data set on the stack's store; its URI."""
    uri = "s3://encnet/benchmarks/scenes"
    command = ["data", "prepare", "context-scenes", f"--dest={uri}", "--json"]
    sizes = [f"--train-samples={scale.train_samples}", f"--val-samples={scale.val_samples}"]
    done = subprocess.run(
        [sys.executable, "-m", "workflows.cli", *command, *sizes], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result
    return uri


def checkpointed(job: Job, scale: Scale, rate: float) -> TrainRun:
    """A run that takes checkpoints for some time, at `rate` steps a second."""
    steps = max(3, round(rate * scale.checkpointed_s / LOG_EVERY_STEPS)) * LOG_EVERY_STEPS
    changes = {"optim.max_steps": str(steps), "checkpoint.every_s": str(scale.checkpoint_every_s)}
    return run_train(job.changed(changes), WORKERS)


def tables(small: bool) -> Iterator[Table]:
    """Loop, workers, checkpoints, start."""
    scale = SMALL if small else FULL
    print(measure.hardware())
    with running_stack(max(WORKERS, os.cpu_count() or 1)):
        job = Job(recipe=RECIPE, data=prepare_scenes(scale), changes=scale.changes)
        sides = run_sides(job.changed({"optim.max_steps": str(scale.steps)}), scale.rounds)
        yield loop_table(sides, scale.warm)
        yield workers_table(sides, scale.warm)
        rate = statistics.median(_rates(sides.pair, scale.warm))
        yield checkpoint_table(checkpointed(job, scale, rate), scale.checkpoint_every_s)
        one_step = job.changed({"optim.max_steps": "1"})
        imports, starts = [], []
        for _ in range(scale.rounds):
            imports.append(import_seconds())
            starts.append(stages(run_train(one_step, WORKERS)))
        yield start_table(starts, imports)


if __name__ == "__main__":
    measure.main(__doc__, tables)
