"""The timeline of a run: when it was started, failed, resumed, resized, stopped; kept beside its checkpoints."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from types import TracebackType

from pipeline.errors import InputError, PipelineError, first_line
from pipeline.storage import ObjectNotFound, Store

EVENTS = "events.json"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a run."""

    at: float
    """Seconds since the epoch."""
    kind: str
    """In a word: "started", "resumed", "workers", "resized", "failed", "restarting", "stopped", "finished" ..."""
    step: int | None = None
    """Steps done then, where that is known."""
    workers: int = 0
    """How many train from then on; 0 when none do."""
    detail: str = ""


class Timeline(AbstractContextManager["Timeline"]):
    """The events of the run in `store`, those of earlier drivers included.

    They are stored, and shown by `show`, from a thread of its own: nothing waits for a storage or a server that does
    not answer. What could not be stored or shown goes with the next event, and at the end once more.
    """

    def __init__(self, store: Store, show: Callable[[Sequence[Event]], None] = lambda events: None) -> None:
        self._store, self._show = store, show
        try:
            self.events = [Event(**event) for event in json.loads(store.read(EVENTS))]
        except ObjectNotFound:
            self.events = []
        self._thread = ThreadPoolExecutor(1, "timeline")
        self._published = len(self.events)

    def add(
        self, kind: str, detail: str = "", *, step: int | None = None, workers: int = 0, at: float | None = None
    ) -> Event:
        """Add an event, of now if no time is given."""
        event = Event(at=at or time.time(), kind=kind, step=step, workers=workers, detail=detail)
        self.events.append(event)
        self._thread.submit(self._publish)
        return event

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.submit(self._publish)
        self._thread.shutdown()

    def _publish(self) -> None:
        events = list(self.events)
        if len(events) == self._published:
            return
        try:
            self._store.write(EVENTS, json.dumps([asdict(event) for event in events], indent=1).encode())
            self._show(events)
            self._published = len(events)
        except (PipelineError, InputError) as error:
            _logger.warning("the run's events could not be shown: %s", first_line(error))
