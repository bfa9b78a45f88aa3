"""What a node is made of and how busy it is, in MLflow: one monitor a node, which no fault of MLflow's ends."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from types import TracebackType

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from pipeline.delivery import Delivery
from pipeline.errors import TrackingError
from pipeline.outbox import Outbox
from pipeline.provenance import node_facts

SAMPLE_EVERY_S = 10.0
MAX_WAITING = 360
"""Samples held until MLflow has once said when the run began: an hour of them."""
CLOSE_S = 5.0
_logger = logging.getLogger(__name__)


class NodeMonitor(AbstractContextManager["NodeMonitor"]):
    """Logs system/NODE/cpu_utilization_percentage and the like while it is open, and nodes/NODE.json once.

    The steps of these metrics are seconds since the run began, so that they go on after a restart.
    """

    def __init__(self, run_id: str, node: str, every_s: float = SAMPLE_EVERY_S) -> None:
        self._node, self._every_s = node, every_s
        self._run, self._outbox = Delivery(run_id), Outbox(run_id)
        self._waiting: deque[tuple[float, dict[str, float]]] = deque(maxlen=MAX_WAITING)
        self._step = -1
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="node-monitor", daemon=True)

    def __enter__(self) -> NodeMonitor:
        self._outbox.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join(CLOSE_S)
        self._outbox.close(CLOSE_S)
        self._outbox.__exit__(kind, error, trace)

    def _watch(self) -> None:
        self._outbox.file(f"nodes/{self._node}.json", json.dumps(node_facts(), indent=2).encode())
        monitors = open_monitors()
        last = False
        while not last:
            for monitor in monitors:
                monitor.collect_metrics()
            last = self._closed.wait(self._every_s)
            figures = {
                f"system/{self._node}/{name}": value
                for monitor in monitors
                for name, value in monitor.aggregate_metrics().items()
            }
            for monitor in monitors:
                monitor.clear_metrics()
            self._waiting.append((time.time(), figures))
            self._hand_over()

    def _hand_over(self) -> None:
        try:
            began_s = self._run.began_ms() / 1000
        except TrackingError as error:
            _logger.debug("system metrics wait: %s", error)
            return
        while self._waiting:
            at_s, figures = self._waiting.popleft()
            self._step = max(self._step + 1, int(at_s - began_s))
            self._outbox.add(self._step, figures)
        self._outbox.commit(self._step)


def open_monitors() -> list[BaseMetricsMonitor]:
    """MLflow's own collectors; the GPUs' needs nvidia-ml-py and a GPU, and is left out without."""
    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except (ImportError, RuntimeError) as error:
        _logger.debug("no GPU metrics: %s", error)
    return monitors
