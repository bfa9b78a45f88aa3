"""The benchmark of training's overheads runs on a real stack, compares the same work, and fills its tables."""

from __future__ import annotations

import time

import pytest
from rich.table import Table

from tests.benchmarks import overheads
from tests.benchmarks.overheads import WORKERS, Sides
from tests.benchmarks.training.job import Job, steps_per_s
from tests.benchmarks.training.start import STAGES, stages

STEPS, WARM = 15, 5


@pytest.fixture(scope="module")
def sides(scenes: str) -> Sides:
    """One round of tiny runs, with checkpoints as often as they can be had."""
    changes = {**overheads.TINY, "optim.lr": "0.002", "optim.max_steps": str(STEPS), "checkpoint.every_s": "0.05"}
    return overheads.run_sides(Job(recipe=overheads.RECIPE, data=scenes, changes=changes), rounds=1)


def test_all_sides_do_the_same(sides: Sides) -> None:
    bare, pair, alone = (runs[0].losses for runs in sides)
    assert len(pair) == STEPS
    assert bare == pytest.approx(pair, rel=1e-4)
    assert alone == pytest.approx(pair, rel=1e-2)  # sums are taken in another order, and a young network magnifies it


def test_all_sides_are_timed_at_the_same_steps(sides: Sides) -> None:
    for runs in sides:
        times = runs[0].times
        assert {WARM, STEPS} <= set(times)
        assert max(times) == STEPS
        assert list(times.values()) == sorted(times.values())
        assert times[STEPS] < time.time()


def test_the_tables_are_filled(sides: Sides) -> None:
    loop, workers = overheads.loop_table(sides, WARM), overheads.workers_table(sides, WARM)
    speeds = [steps_per_s(runs[0].times, WARM) for runs in sides]
    assert _last_row(loop)[3] == f"{speeds[1] / speeds[0]:.3f}"
    assert _last_row(workers)[3] == f"{speeds[1] / (WORKERS * speeds[2]):.3f}"


def test_the_stall_for_checkpoints_is_found(sides: Sides) -> None:
    checkpoints, seconds, stalled, longest, _ = _last_row(overheads.checkpoint_table(sides.pair[0], every_s=0.05))
    assert int(checkpoints) >= 1
    assert 0 < float(longest) <= float(stalled) < float(seconds)


def test_a_start_is_taken_apart_without_gaps(sides: Sides) -> None:
    run = sides.pair[0]
    start = stages(run)
    assert list(start) == list(STAGES)
    assert all(seconds >= 0 for seconds in start.values()), start
    assert sum(start.values()) == pytest.approx(min(run.times.values()) - run.began)
    assert _last_row(overheads.start_table([start], [1.0]))[0] == "all of it"


def _last_row(table: Table) -> list[str]:
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert all(all(row) or row == rows[0] for row in rows)
    return [str(cell) for cell in rows[-1]]
