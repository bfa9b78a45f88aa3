"""Progress that a person can follow: a bar in a terminal, a line now and then in a log file.

Workers post facts to a `ProgressBoard` (an actor, where Ray runs them); a `ProgressView` in the driver shows them.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Facts = dict[str, Any]
LINE_EVERY_S = 10.0


class ProgressBoard:
    """The latest facts that anyone posted."""

    def __init__(self) -> None:
        self._facts: Facts = {}

    def post(self, facts: Facts) -> None:
        """Replace facts by name."""
        self._facts.update(facts)

    def read(self) -> Facts:
        """All facts."""
        return dict(self._facts)


def describe(facts: Facts) -> str:
    """The facts in words: 'epoch 3  loss 1.234  mIoU 45.6 %  12.3 images/s'."""
    words = []
    if "epoch" in facts:
        words.append(f"epoch {facts['epoch']}")
    if "loss" in facts:
        words.append(f"loss {facts['loss']:.3f}")
    if "miou" in facts:
        words.append(f"mIoU {100 * facts['miou']:.1f} %")
    if "images_per_s" in facts:
        words.append(f"{facts['images_per_s']:.1f} images/s")
    return "  ".join(words)


class ProgressView(AbstractContextManager["ProgressView"]):
    """Polls `read` twice a second and shows step / steps with the facts, on stderr."""

    def __init__(self, title: str, read: Callable[[], Facts], unit: str = "step") -> None:
        self._title, self._read, self._unit = title, read, unit
        self._console = Console(file=sys.stderr)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> ProgressView:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        if self._console.is_terminal:
            self._bar()
        else:
            self._lines()

    def _bar(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        with Progress(*columns, console=self._console, transient=False) as progress:
            task: TaskID | None = None
            last = False
            while not last:
                last = self._stop.wait(0.5)
                facts = self._read()
                if task is None:
                    task = progress.add_task(self._title, total=None, facts="waiting for workers")
                if "steps" in facts:
                    progress.update(task, total=facts["steps"], completed=facts["step"], facts=describe(facts))

    def _lines(self) -> None:
        shown, shown_at, began, last = -1, time.monotonic(), None, False
        while not last:
            last = self._stop.wait(0.5)
            facts = self._read()
            if "steps" not in facts:
                continue
            now, step, steps = time.monotonic(), facts["step"], facts["steps"]
            began = began or (now, step)
            if step != shown and (last or step == steps or now - shown_at >= LINE_EVERY_S):
                words = [self._title, f"{self._unit} {step}/{steps}", describe(facts)]
                if began[1] < step < steps:
                    words.append(f"left {(now - began[0]) / (step - began[1]) * (steps - step):.0f} s")
                print("  ".join(filter(None, words)), file=sys.stderr, flush=True)  # noqa: T201
                shown, shown_at = step, now
