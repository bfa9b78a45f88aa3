"""Points and pictures on their way to MLflow: training never waits for them, a restart neither loses nor repeats any.

What the loop adds is held until the checkpoint with it is committed: steps that are done again after a restart never
reached MLflow. A thread sends what is committed, for as long as it takes. What MLflow has not confirmed travels in the
checkpoint's state (`pending`), and whoever goes on from there sends it; a point that MLflow has already is left out.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from pipeline.delivery import Delivery, Points
from pipeline.environment import overridden
from pipeline.errors import InputError, StorageError, TrackingError, first_line
from pipeline.storage import ObjectNotFound, Store
from pipeline.tracking import Refused, Unreachable

MAX_POINTS = 200_000
"""Held at most, some 15 MB; beyond that every second step is let go. With 12 points every 5 steps: 80,000 steps."""
MAX_FILE_BYTES = 64 << 20
"""Of pictures held where they can't be put aside; beyond that the oldest are let go."""
CLOSE_S = 30.0
_BATCH = 500
_POINTS = "points/"
_ONE_TRY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_PAUSES_S = (0.5, 1.0, 2.0, 5.0)
_logger = logging.getLogger(__name__)


class Outbox(AbstractContextManager["Outbox"]):
    """Sends to one MLflow run in the background. For one thread that adds, and another that commits.

    Args:
        run_id: of the MLflow run; nothing is asked of the server until there is something to send.
        restored: what `pending` gave when the checkpoint that the run goes on from was written.
        spool: pictures that MLflow does not take for now are put aside there, and found there after a restart.
    """

    def __init__(self, run_id: str, restored: Sequence[Any] = (), *, spool: Store | None = None) -> None:
        self._delivery, self._spool = Delivery(run_id), spool
        self._held: list[Points] = []
        self._ready = [Points(*each) for each in restored]
        self._sending: list[Points] = []
        self._num_points = sum(len(each.values) for each in self._ready)
        self._files: dict[str, bytes | None] = {}
        """By artifact path, oldest first; None for one that is put aside."""
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._brief = overridden(_ONE_TRY)
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def __enter__(self) -> Outbox:
        self._brief.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._deadline is None:
                self.close()
        finally:
            self._brief.__exit__(kind, error, trace)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take what was measured at `step`, name -> value; values that are no finite number are left out."""
        points = Points.now(step, values)
        with self._changed:
            self._held.append(points)
            self._num_points += len(points.values)
            if self._num_points > MAX_POINTS:
                _logger.warning("MLflow has been away for so long that every second step's points are let go")
                self._ready, self._held = thinned(self._ready), thinned(self._held)
                self._num_points = sum(len(each.values) for each in self._all())

    def commit(self, step: int) -> None:
        """The checkpoint of `step` is stored: points up to it may go."""
        with self._changed:
            self._ready += [points for points in self._held if points.step <= step]
            self._held = [points for points in self._held if points.step > step]
            self._changed.notify_all()

    def pending(self) -> list[Any]:
        """All points that MLflow has not confirmed, JSON-ready: what a checkpoint's state keeps."""
        with self._changed:
            return [list(points) for points in self._all()]

    def picture(self, array: np.ndarray, name: str, step: int) -> None:
        """Send an (H, W, 3) uint8 picture as artifact images/step_0000120/NAME.png, at once.

        Not by key and step: the UI then buries it in a chart under the run's parameters.
        """
        done, png = cv2.imencode(".png", cv2.cvtColor(array, cv2.COLOR_RGB2BGR))
        assert done
        self.file(f"images/step_{step:07d}/{name}.png", png.tobytes())

    def file(self, path: str, data: bytes) -> None:
        """Send `data` as artifact `path`, at once; it takes the place of one sent before."""
        with self._changed:
            self._files.pop(path, None)
            self._files[path] = data
            while sum(len(each) for each in self._files.values() if each) > MAX_FILE_BYTES:
                oldest = next(path for path, each in self._files.items() if each)
                del self._files[oldest]
                _logger.warning("%s is let go: MLflow has been away for too long", oldest)
            self._changed.notify_all()

    def close(self, timeout_s: float = CLOSE_S) -> int:
        """Send what may go, for up to `timeout_s`; returns how many points and files are left."""
        with self._changed:
            self._deadline = time.monotonic() + timeout_s
            self._changed.notify_all()
        self._thread.join(timeout_s + 1)
        with self._changed:
            return self._num_points + len(self._files)

    def put_points_aside(self, name: str) -> None:
        """Leave the points that are left after `close` on the spool, for `deliver`: where no checkpoint takes them.

        Raises StorageError.
        """
        pending = self.pending()
        if pending and self._spool:
            self._spool.write(f"{_POINTS}{name}.json", json.dumps(pending).encode())

    def _all(self) -> list[Points]:
        return [*self._sending, *self._ready, *self._held]

    def _run(self) -> None:
        self._find_what_was_put_aside()
        failures, away_since, is_told = 0, 0.0, False
        while self._wait(_PAUSES_S[min(failures, len(_PAUSES_S)) - 1] if failures else 0.0):
            try:
                if not self._send_points():
                    self._send_file()
            except TrackingError as error:
                away_since = away_since if failures else time.monotonic()
                failures += 1
                self._put_aside()
                if failures == 2:  # a single one is not worth a line
                    _logger.warning("%s: training goes on, and this is kept and sent later", error)
                    is_told = True
            else:
                if is_told:
                    _logger.warning("MLflow takes points again, after %.0f s", time.monotonic() - away_since)
                failures, is_told = 0, False

    def _wait(self, pause_s: float) -> bool:
        """Wait until there is something to do, `pause_s` at least or until the end comes; False when that is it."""
        with self._changed:
            if pause_s and self._deadline is None:
                self._changed.wait_for(lambda: self._deadline is not None, pause_s)
            elif pause_s:
                self._changed.wait_for(self._is_late, min(pause_s, self._left_s()))
            self._changed.wait_for(lambda: self._deadline is not None or self._has_work())
            return self._has_work() and not self._is_late()

    def _has_work(self) -> bool:
        return bool(self._sending or self._ready or self._files)

    def _left_s(self) -> float:
        return threading.TIMEOUT_MAX if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _is_late(self) -> bool:
        return self._left_s() <= 0

    def _send_points(self) -> bool:
        """Send the oldest points that may go, as many as one request takes; False when there are none."""
        with self._changed:
            if not self._sending:
                size = batch_size(self._ready)
                self._sending, self._ready = self._ready[:size], self._ready[size:]
            batch = list(self._sending)
        if not batch:
            return False
        try:
            self._delivery.points(batch)
        except Refused:
            self._send_one_by_one(batch)
        with self._changed:
            self._sending = []
            self._num_points -= sum(len(points.values) for points in batch)
        return True

    def _send_one_by_one(self, batch: Sequence[Points]) -> None:
        """Let go what MLflow will never take, and only that."""
        for points in batch:
            for name, value in points.values.items():
                try:
                    self._delivery.points([points._replace(values={name: value})])
                except Refused as error:
                    _logger.warning("%s of step %d is let go: %s", name, points.step, error)

    def _send_file(self) -> None:
        with self._changed:
            path, data = next(iter(self._files.items()), ("", None))
        if not path:
            return
        try:
            self._deliver_file(path, data)
        except ObjectNotFound:
            _logger.debug("%s was sent by another outbox of this run", path)
        except (StorageError, InputError) as error:
            raise Unreachable(f"{path}: {first_line(error)}") from error
        with self._changed:
            if self._files.get(path) is data:  # not another of that name, added meanwhile
                self._files.pop(path, None)

    def _deliver_file(self, path: str, data: bytes | None) -> None:
        """Send a file, from where it was put aside if it is None, and remove it there."""
        is_aside = data is None
        if data is None:
            assert self._spool, "nowhere else is it put aside"
            data = self._spool.read(path)
        try:
            self._delivery.file(path, data)
        except Refused as error:
            _logger.warning("%s is let go: %s", path, error)
        if is_aside and self._spool:
            self._spool.delete(path)

    def _put_aside(self) -> None:
        """Write the files that wait in memory to the spool."""
        with self._changed:
            waiting = [(path, data) for path, data in self._files.items() if data]
        for path, data in waiting if self._spool else ():
            assert self._spool
            try:
                self._spool.write(path, data)
            except (StorageError, InputError) as error:
                _logger.warning("%s could not be put aside: %s", path, first_line(error))
                return
            with self._changed:
                if self._files.get(path) is data:
                    self._files[path] = None

    def _find_what_was_put_aside(self) -> None:
        if self._spool:
            try:
                found = self._spool.list()
            except (StorageError, InputError) as error:
                _logger.warning("pictures put aside before could not be looked for: %s", first_line(error))
                return
            with self._changed:
                files = [path for path in found if not path.startswith(_POINTS)]
                self._files = {**dict.fromkeys(files), **self._files}


def batch_size(ready: Sequence[Points]) -> int:
    """How many of the first of `ready` go into one request: at least one."""
    total = 0
    for number, points in enumerate(ready):
        total += len(points.values)
        if total > _BATCH:
            return max(number, 1)
    return len(ready)


def thinned(points: Sequence[Points]) -> list[Points]:
    """Every second of the points of training; validation's are few, and all stay."""
    train = [each for each in points if all(name.startswith("train/") for name in each.values)]
    gone = {id(each) for each in train[1::2]}
    return [each for each in points if id(each) not in gone]


def deliver(run_id: str, pending: Sequence[Any], spool: Store, timeout_s: float = CLOSE_S) -> None:
    """Send what a run has left behind, in its last state and on the spool.

    Raises Unreachable when MLflow does not take all of it in time.
    """
    aside = spool.list(_POINTS)
    rest = [points for path in aside for points in json.loads(spool.read(path))]
    with Outbox(run_id, [*pending, *rest], spool=spool) as outbox:
        left = outbox.close(timeout_s)
    if left:
        raise Unreachable(f"MLflow: {left} points and pictures of run {run_id} could not be sent")
    for path in aside:
        spool.delete(path)
