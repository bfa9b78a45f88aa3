"""What an outbox holds, before it has a server: everything that was added, in order, and no more than it may."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import outbox as module
from pipeline.delivery import Points
from pipeline.outbox import Outbox, batch_size, thinned

rows = st.lists(st.integers(0, 700).map(lambda count: Points(0, 0, dict.fromkeys(map(str, range(count)), 0.0))))


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=30))
def test_what_is_pending_is_all_that_was_added_and_survives_json(calls: list[tuple[int, bool]]) -> None:
    restored: list[Any] = [[1, 1000, {"train/loss": 0.1}], [2, 2000, {"train/loss": 1 / 3}]]
    outbox = Outbox("run", restored)
    for step, commits in calls:
        outbox.add(step, {"train/loss": step / 3, "val/miou": step / 7})
        if commits:
            outbox.commit(step)
    pending = json.loads(json.dumps(outbox.pending()))
    assert pending[:2] == restored
    added = sorted((step, {"train/loss": step / 3, "val/miou": step / 7}) for step, _ in calls) if calls else []
    assert sorted((step, values) for step, _, values in pending[2:]) == added
    again = Outbox("run", pending)
    assert again.pending() == pending


def test_numbers_that_are_none_are_left_out_and_names_fit() -> None:
    outbox = Outbox("run")
    outbox.add(3, {"val/iou/car, (old)": 0.5, "val/iou/sky": nan, "train/grad_norm": inf})
    ((step, time_ms, values),) = outbox.pending()
    assert (step, values) == (3, {"val/iou/car_ _old_": 0.5})
    assert time_ms > 1_600_000_000_000


def test_points_have_a_bound_and_validation_s_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_POINTS", 100)
    outbox = Outbox("run")
    for step in range(1000):
        outbox.add(step, {"train/loss": 1.0})
        if step % 100 == 99:
            outbox.add(step, {"val/miou": 0.5})
            outbox.commit(step)
    pending = outbox.pending()
    assert len(pending) <= 101
    assert [step for step, _, values in pending if "val/miou" in values] == list(range(99, 1000, 100))
    assert [step for step, _, values in pending if "train/loss" in values][-1] == 999
    assert "every second step's points are let go" in caplog.text


def test_pictures_have_a_bound(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10 * noise.nbytes)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody there
    with Outbox("run") as outbox:
        for step in range(40):
            outbox.picture(noise, "val_00", step)
        assert 8 <= outbox.close(0) <= 10
    assert "images/step_0000000/val_00.png is let go" in caplog.text


@given(rows.filter(bool))
def test_a_request_holds_as_many_as_it_may_and_at_least_one(ready: list[Points]) -> None:
    size = batch_size(ready)
    counts = [len(points.values) for points in ready]
    assert 1 <= size <= len(ready)
    assert sum(counts[:size]) <= 500 or size == 1
    assert size == len(ready) or sum(counts[: size + 1]) > 500


@given(st.lists(st.sampled_from(["train/loss", "val/miou"]), max_size=40))
def test_every_second_step_of_training_goes_and_nothing_else(names: list[str]) -> None:
    points = [Points(step, 0, {name: 0.0}) for step, name in enumerate(names)]
    kept = thinned(points)
    train = [each for each in points if "train/loss" in each.values]
    assert [each for each in kept if "train/loss" in each.values] == train[::2]
    assert [each for each in kept if "val/miou" in each.values] == [
        each for each in points if "val/miou" in each.values
    ]
    assert kept == [each for each in points if each in kept]
