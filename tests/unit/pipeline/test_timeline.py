"""The timeline of a run: kept over drivers, and never in their way."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.errors import StorageError, TrackingError
from pipeline.storage import open_store
from pipeline.timeline import EVENTS, Event, Timeline


def test_events_are_kept_beside_those_of_the_driver_before(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with Timeline(store) as timeline:
        timeline.add("started", step=0)
        timeline.add("workers", "on 1 node", workers=2)
    shown: list[list[str]] = []
    with Timeline(store, lambda events: shown.append([event.kind for event in events])) as again:
        assert [event.kind for event in again.events] == ["started", "workers"]
        again.add("resumed", step=7, at=1.5)
    assert shown[-1] == ["started", "workers", "resumed"]
    stored = json.loads((tmp_path / EVENTS).read_text())
    assert stored[1]["workers"] == 2
    assert stored[2] == {"at": 1.5, "kind": "resumed", "step": 7, "workers": 0, "detail": ""}


def test_what_could_not_be_shown_goes_with_the_next_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shown: list[int] = []

    def show(events: Sequence[Event]) -> None:
        if len(events) == 1:
            raise TrackingError("MLflow is away")
        shown.append(len(events))

    with caplog.at_level(logging.WARNING), Timeline(open_store(str(tmp_path)), show) as timeline:
        timeline.add("started")
        timeline._thread.submit(int).result()  # the first was tried alone
        timeline.add("workers")
    assert shown == [2]
    assert "the run's events could not be shown: MLflow is away" in caplog.text


def test_a_storage_that_is_away_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))

    class Away:
        read = store.read

        def write(self, key: str, data: bytes) -> None:
            raise StorageError("S3 is away")

    with Timeline(Away()) as timeline:  # type: ignore[arg-type]
        timeline.add("started")
    assert [event.kind for event in timeline.events] == ["started"]
