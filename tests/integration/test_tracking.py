"""Tracking against a real MLflow server."""

from __future__ import annotations

from pipeline import tracking
from tests.conftest import RunningStack


def test_a_run_of_an_instant_has_system_metrics(stack: RunningStack) -> None:
    client = tracking.connect()
    run_id = tracking.new_run(client, "instants", "instant", {})
    with tracking.Tracker(run_id, system_metrics=True, node="here"):
        pass
    assert "system/here/cpu_utilization_percentage" in client.get_run(run_id).data.metrics
