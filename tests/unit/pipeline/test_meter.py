"""Points are the same wherever a run was interrupted; a loss that is not finite is told with its step."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch

from pipeline import meter as meter_module
from pipeline.errors import TrainingError
from pipeline.meter import Meter

TIMED = {
    "train/images_per_s",
    "train/data_wait_share",
    "train/read_mb_per_s",
    "train/checkpoint_stall_s",
    "train/checkpoint_stall_share",
}


def _meter(losses: Any = (), unlogged: Any = (), **options: Any) -> Meter:
    return Meter(20, 4, 16, losses, unlogged, lambda **_: None, **options)


def _rows(first: int, stop: int) -> list[torch.Tensor]:
    return [torch.tensor([1.0 + step, 0.5, 0.25, 0.125, 2.0 * step]) for step in range(first, stop)]


def _timeless(points: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    return {
        step: {name: value for name, value in values.items() if name not in TIMED} for step, values in points.items()
    }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(meter_module.time, "monotonic", lambda: now[0])
    return now


def _run(meter: Meter, first: int, stop: int, checkpoint_at: int = 0) -> None:
    for step, row in enumerate(_rows(first, stop), start=first + 1):
        meter.add(row)
        if step % 5 == 0:
            meter.log(step, 0.1, 0.0, 0)
        if step == checkpoint_at:
            meter.gather(step)


def test_a_checkpoint_between_two_points_changes_neither() -> None:
    through, interrupted = _meter(), _meter()
    _run(through, 0, 10)
    _run(interrupted, 0, 7, checkpoint_at=7)
    losses, unlogged = json.loads(json.dumps([interrupted.losses, interrupted.unlogged]))
    assert len(unlogged) == 2
    resumed = _meter(losses, unlogged)
    _run(resumed, 7, 10)
    assert resumed.losses == through.losses == [1.0 + step for step in range(10)]
    assert _timeless({**interrupted.points, **resumed.points}) == _timeless(through.points)
    assert through.points[10]["train/loss"] == pytest.approx(8.0)
    assert through.points[10]["train/grad_norm"] == pytest.approx(14.0)


def test_standing_still_is_told_at_the_next_point() -> None:
    meter = _meter()
    with meter.stalled():
        pass
    _run(meter, 0, 10)
    assert 0 <= meter.points[5]["train/checkpoint_stall_s"] < 0.1
    assert 0 <= meter.points[5]["train/checkpoint_stall_share"] <= 1
    assert "train/checkpoint_stall_s" not in meter.points[10]


def test_pauses_do_not_count_as_training() -> None:
    meter = _meter()
    meter.add(_rows(0, 1)[0])
    with meter.paused():
        time.sleep(0.5)
    meter.log(1, 0.1, 0.0, 0)
    assert meter.points[1]["train/images_per_s"] > 4 / 0.4


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_what_all_ranks_read_is_told_by_the_second(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    if num_ranks > 1:  # of which each does the same
        monkeypatch.setattr(meter_module.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(meter_module.dist, "all_reduce", lambda table: table.mul_(num_ranks))
    meter = _meter()
    for step, bytes_read in ((5, 20_000_000), (10, 25_000_000)):
        for row in _rows(step - 5, step - 2):
            meter.add(row)
        meter.gather(step - 2)  # for a checkpoint
        for row in _rows(step - 2, step):
            meter.add(row)
        clock[0] += 4.0
        meter.log(step, 0.1, 0.0, bytes_read)
    assert meter.points[5]["train/read_mb_per_s"] == pytest.approx(num_ranks * 20 / 4)
    assert meter.points[10]["train/read_mb_per_s"] == pytest.approx(num_ranks * 5 / 4)
    assert meter.losses == [num_ranks * (1.0 + step) for step in range(10)]


@pytest.mark.parametrize(
    ("column", "name"), [(1, "pixel loss"), (2, "aux loss"), (3, "se loss"), (0, "total loss"), (4, "gradient")]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_told_with_its_step(column: int, name: str, value: float) -> None:
    meter = _meter()
    rows = _rows(0, 4)
    rows[2][column] = value
    if name.endswith("loss"):
        rows[2][0] = rows[2][4] = value
    for row in rows:
        meter.add(row)
    with pytest.raises(TrainingError, match=f"^the {name} is not finite at step 2: lower --optim.lr"):
        meter.gather(4)
    assert meter.losses == []


def test_fp16_skips_steps_but_not_for_ever() -> None:
    meter = _meter(may_skip=True)
    rows = _rows(0, 5)
    rows[1][4] = float("inf")
    for row in rows:
        meter.add(row)
    meter.log(5, 0.1, 0.0, 0)
    assert meter.points[5]["train/skipped_steps"] == 1
    assert meter.points[5]["train/grad_norm"] == pytest.approx((0 + 4 + 6 + 8) / 4)
    for _ in range(50):
        meter.add(torch.tensor([1.0, 1.0, 1.0, 1.0, float("inf")]))
    with pytest.raises(TrainingError, match="in fp16 at every step up to 44: use --precision bf16"):
        meter.gather(55)
