"""Points and pictures reach MLflow once each, whatever it does meanwhile, and nobody waits for them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.node_monitor import NodeMonitor
from pipeline.outbox import Outbox, deliver
from pipeline.storage import LocalStore
from pipeline.tracking import Unreachable
from tests.integration.lone_mlflow import LoneMlflow, Proxy

AT_ONCE_S = 0.1
"""Of a call that waits for nobody; what it takes is microseconds, the rest is for a busy machine."""


def values(client: MlflowClient, run_id: str, key: str) -> dict[int, float]:
    """Step -> value of a metric of which no step is there twice."""
    history = client.get_metric_history(run_id, key)
    assert len({point.step for point in history}) == len(history), f"{key} has a step twice"
    return {point.step: point.value for point in history}


def log(outbox: Outbox, steps: range, pause_s: float = 0.0) -> float:
    """Add and commit points, a checkpoint every ten steps; returns the longest time that a call took."""
    longest = 0.0
    for step in steps:
        began = time.monotonic()
        outbox.add(step, {"train/loss": 1 / step, "train/lr": step})
        if step % 10 == 0:
            outbox.commit(step)
        longest = max(longest, time.monotonic() - began)
        time.sleep(pause_s)
    return longest


def test_a_server_that_is_away_for_a_while_delays_points_and_loses_none(
    mlflow_server: LoneMlflow, way: Proxy, mlflow_client: MlflowClient, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Outbox(run_id) as outbox:
        longest = log(outbox, range(1, 51), pause_s=0.02)
        mlflow_server.stop()
        try:
            longest = max(longest, log(outbox, range(51, 151), pause_s=0.02))
            assert len(outbox.pending()) >= 100
        finally:
            mlflow_server.start()
        longest = max(longest, log(outbox, range(151, 201)))
        assert outbox.close(60) == 0
    assert longest < AT_ONCE_S
    assert values(mlflow_client, run_id, "train/loss") == {step: 1 / step for step in range(1, 201)}
    assert list(values(mlflow_client, run_id, "train/lr")) == list(range(1, 201))
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert "training goes on, and this is kept and sent later" in told[0]
    assert told[1].startswith("MLflow takes points again, after ")


def test_what_is_sent_again_since_the_answer_was_lost_is_there_once(
    way: Proxy, mlflow_client: MlflowClient, run_id: str
) -> None:
    with Outbox(run_id) as outbox:
        log(outbox, range(1, 11))
        while outbox.pending():
            time.sleep(0.01)
        way.loses_answers, asked = True, way.num_requests
        log(outbox, range(11, 21))
        while way.num_requests < asked + 3:
            time.sleep(0.01)
        assert len(mlflow_client.get_metric_history(run_id, "train/loss")) == 20, "the server did its work"
        assert len(outbox.pending()) == 10, "and nobody knows"
        way.loses_answers = False
        assert outbox.close(30) == 0
    assert list(values(mlflow_client, run_id, "train/loss")) == list(range(1, 21))


def test_a_slow_server_keeps_nobody_waiting(way: Proxy, mlflow_client: MlflowClient, run_id: str) -> None:
    way.delay_s = 1.5
    with Outbox(run_id) as outbox:
        assert log(outbox, range(1, 101), pause_s=0.02) < AT_ONCE_S
        assert outbox.close(30) == 0
    assert list(values(mlflow_client, run_id, "train/loss")) == list(range(1, 101))


def test_points_are_sent_when_their_checkpoint_is_committed_and_not_before(
    way: Proxy, mlflow_client: MlflowClient, run_id: str
) -> None:
    with Outbox(run_id) as outbox:
        log(outbox, range(1, 16))
        assert outbox.close(10) == 2 * 5
    assert list(values(mlflow_client, run_id, "train/loss")) == list(range(1, 11))


def test_a_restart_sends_what_was_pending_and_repeats_nothing(
    way: Proxy, mlflow_client: MlflowClient, run_id: str
) -> None:
    with Outbox(run_id) as killed:
        log(killed, range(1, 20))
        kept = json.loads(json.dumps(killed.pending()))  # what the checkpoint of step 19 holds
        killed.commit(19)
        killed.add(22, {"train/loss": 99.0})  # of a step that is done again
        killed.close(10)
    assert kept[-1][0] == 19
    # One that goes on from the checkpoint before, and so has points of the later ones a second time, a bit different.
    with Outbox(run_id, kept) as restarted:
        for step in range(15, 26):
            restarted.add(step, {"train/loss": 1 / step + 1e-6, "val/miou": 0.5})
        restarted.commit(25)
        assert restarted.close(10) == 0
    losses = values(mlflow_client, run_id, "train/loss")
    assert losses == {step: 1 / step + (1e-6 if step > 19 else 0) for step in range(1, 26)}
    assert list(values(mlflow_client, run_id, "val/miou")) == list(range(15, 26))


def test_what_mlflow_will_never_take_does_not_block_the_rest(
    way: Proxy, mlflow_client: MlflowClient, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Outbox(run_id) as outbox:
        outbox.add(1, {"train/loss": 1.0, "x" * 300: 2.0})
        outbox.add(2, {"train/loss": 0.5})
        outbox.commit(2)
        assert outbox.close(10) == 0
    assert values(mlflow_client, run_id, "train/loss") == {1: 1.0, 2: 0.5}
    assert [record.message.partition(" is let go")[0] for record in caplog.records] == ["x" * 300 + " of step 1"]


def test_pictures_that_could_not_be_sent_are_found_after_a_restart(
    mlflow_server: LoneMlflow, way: Proxy, mlflow_client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    spool = LocalStore(root=tmp_path / "outbox")
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    port, way.port = way.port, 9  # nobody there
    with Outbox(run_id, spool=spool) as killed:
        killed.picture(picture, "val_00", 120)
        while not spool.list():
            time.sleep(0.01)
        began = time.monotonic()
        assert killed.close(0.5) == 1
        assert time.monotonic() - began < 5
    way.port = port
    deliver(run_id, [], spool)
    assert spool.list() == []
    path = mlflow_client.download_artifacts(run_id, "images/step_0000120/val_00.png", str(tmp_path))
    with mlflow.Image(path).to_pil() as loaded:
        assert np.array_equal(np.asarray(loaded), picture)


def test_points_that_no_checkpoint_takes_are_delivered_at_the_end(
    way: Proxy, mlflow_client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    spool = LocalStore(root=tmp_path / "outbox")
    port, way.port = way.port, 9  # nobody there
    for _ in range(2):  # a validation beside training, that is done twice
        with Outbox(run_id, spool=spool) as outbox:
            outbox.add(120, {"val/miou": 0.5})
            outbox.commit(120)
            outbox.close(0.2)
        outbox.put_points_aside("step_0000120")
    assert spool.list() == ["points/step_0000120.json"]
    way.port = port
    with Outbox(run_id, spool=spool) as other:
        log(other, range(1, 11))
    deliver(run_id, [], spool)
    assert spool.list() == []
    assert values(mlflow_client, run_id, "val/miou") == {120: 0.5}


def test_a_server_that_never_answers_holds_up_no_end(way: Proxy, run_id: str) -> None:
    way.delay_s = 60
    with Outbox(run_id) as outbox:
        log(outbox, range(1, 11))
        time.sleep(0.2)
        began = time.monotonic()
        assert outbox.close(1) == 20
        assert time.monotonic() - began < 4


def test_what_can_t_be_delivered_is_told(way: Proxy, run_id: str, tmp_path: Path) -> None:
    way.port = 9
    pending = [[1, 1000, {"train/loss": 1.0}]]
    with pytest.raises(Unreachable, match=f"MLflow: 1 points and pictures of run {run_id} could not be sent"):
        deliver(run_id, pending, LocalStore(root=tmp_path), timeout_s=0.5)


def test_system_metrics_go_on_after_a_server_was_away(
    mlflow_server: LoneMlflow, way: Proxy, mlflow_client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    key = "system/10.0.0.7/cpu_utilization_percentage"
    port, way.port = way.port, 9
    with NodeMonitor(run_id, "10.0.0.7", every_s=1.0):
        asked = way.num_attempts
        while way.num_attempts < asked + 5:
            time.sleep(0.1)
        way.port = port
        while len(before := values(mlflow_client, run_id, key)) < 2:
            time.sleep(0.1)
    assert len(values(mlflow_client, run_id, key)) > len(before), "the last one when it is closed"
    with NodeMonitor(run_id, "10.0.0.8", every_s=100):
        pass
    assert len(values(mlflow_client, run_id, key.replace("0.7", "0.8"))) == 1, "also of an instant"
    facts = json.loads(Path(mlflow_client.download_artifacts(run_id, "nodes/10.0.0.7.json", str(tmp_path))).read_text())
    assert facts["cores"] > 0
    assert facts["versions"]["torch"]
