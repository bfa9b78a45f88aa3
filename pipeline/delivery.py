"""What goes to one MLflow run, one try at a time: points of metrics, none of them twice, and files.

When to try again is `pipeline.outbox`'s to decide; the errors say whether that can help.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Metric

from pipeline.tracking import explain, metric_name, tracking_uri


class Points(NamedTuple):
    """What was measured at one step, and when: with the same three a point that is sent twice is there once."""

    step: int
    time_ms: int
    values: dict[str, float]

    @classmethod
    def now(cls, step: int, values: Mapping[str, float]) -> Points:
        """Points measured now; those that are no finite number (the IoU of an absent class) are left out."""
        finite = {metric_name(name): float(value) for name, value in values.items() if isfinite(value)}
        return cls(step, int(time.time() * 1000), finite)


class Delivery:
    """One MLflow run, as far as it gets points and files. Not for several threads."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._client: MlflowClient | None = None
        self._last_step: dict[str, int] | None = None
        self._steps: dict[str, set[int]] = {}
        self._began_ms = 0

    def points(self, batch: Sequence[Points]) -> None:
        """Log points, but for those of a metric and step that the run had before the first call. TrackingError."""
        try:
            metrics = [
                Metric(name, value, points.time_ms, points.step)
                for points in batch
                for name, value in points.values.items()
                if not self._has(name, points.step)
            ]
            if metrics:
                self._connected().log_batch(self.run_id, metrics=metrics)
        except Exception as error:  # whatever a broken server or proxy makes of an answer
            raise explain(error, f"{len(batch)} steps of run {self.run_id}") from error

    def file(self, path: str, data: bytes) -> None:
        """Log `data` as artifact `path`, in place of what is there. Raises TrackingError."""
        place = PurePosixPath(path)
        parent = None if place.parent == PurePosixPath() else str(place.parent)
        try:
            with tempfile.TemporaryDirectory(prefix="encnet-artifact-") as folder:
                file = Path(folder, place.name)
                file.write_bytes(data)
                self._connected().log_artifact(self.run_id, str(file), parent)
        except Exception as error:  # as above
            raise explain(error, f"{path} of run {self.run_id}") from error

    def began_ms(self) -> int:
        """When the run began, in ms since the epoch. Raises TrackingError."""
        try:
            self._read_run()
        except Exception as error:  # as above
            raise explain(error, f"run {self.run_id}") from error
        return self._began_ms

    def _connected(self) -> MlflowClient:
        if self._client is None:
            self._client = MlflowClient(tracking_uri())
        return self._client

    def _read_run(self) -> dict[str, int]:
        """The last step of each metric, as the run was at the first contact."""
        if self._last_step is None:
            run: Any = self._connected().get_run(self.run_id)
            self._began_ms = run.info.start_time
            self._last_step = {metric.key: metric.step for metric in run.data.to_proto().metrics}
        return self._last_step

    def _has(self, name: str, step: int) -> bool:
        """Whether the run had that point before. Histories are long: only those that reach further are read."""
        last_step = self._read_run().get(name, -1)
        if step >= last_step:
            return step == last_step
        if name not in self._steps:
            history = self._connected().get_metric_history(self.run_id, name)
            self._steps[name] = {metric.step for metric in history}
        return step in self._steps[name]
