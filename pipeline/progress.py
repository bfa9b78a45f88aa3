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
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Facts = dict[str, Any]
LINE_EVERY_S = 10.0
PACE_HALF_LIFE_S = 600.0
"""What was so long ago counts half in the time that is left."""


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


class Pace:
    """How long a step takes lately, pauses left out; steps that are done again after a restart count as they are."""

    def __init__(self) -> None:
        self._seconds = self._steps = 0.0
        self._last: tuple[float, int] | None = None

    def add(self, now: float, step: int) -> None:
        """At `now`, in seconds, `step` steps are done."""
        if self._last and step > self._last[1]:
            seconds, steps = now - self._last[0], step - self._last[1]
            older = 0.5 ** (seconds / PACE_HALF_LIFE_S)
            self._seconds, self._steps = self._seconds * older + seconds, self._steps * older + steps
        if self._last is None or step != self._last[1]:
            self._last = (now, step)

    def pause(self) -> None:
        """No steps are done until the next call of `add`."""
        self._last = None

    def forget(self) -> None:
        """From here on steps take another time."""
        self._seconds = self._steps = 0.0
        self.pause()

    def left_s(self, num_steps: int) -> float | None:
        """The time that so many steps take; None while that is not known."""
        return num_steps * self._seconds / self._steps if self._steps and num_steps > 0 else None


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


def duration(seconds: float) -> str:
    """A time in words: '42 s', '7 min', '3 h 05 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class ProgressView(AbstractContextManager["ProgressView"]):
    """Polls `read` twice a second and shows step / steps with the facts, on stderr."""

    def __init__(self, title: str, read: Callable[[], Facts], unit: str = "step") -> None:
        self._title, self._read, self._unit = title, read, unit
        self._console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[facts]}"),
            console=self._console,
        )
        self.pace = Pace()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def say(self, text: str) -> None:
        """Show a line of text, above the bar where there is one."""
        if self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal:  # not by the thread: it takes stderr in hand, before what is opened inside of it
            self._progress.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        if self._console.is_terminal:
            self._progress.stop()

    def _run(self) -> None:
        if self._console.is_terminal:
            self._bar()
        else:
            self._lines()

    def _left(self, facts: Facts) -> str:
        """The time left, in words; '' while that is not known."""
        self.pace.add(time.monotonic(), facts["step"])
        left_s = self.pace.left_s(facts["steps"] - facts["step"])
        return "" if left_s is None else f"left {duration(left_s)}"

    def _bar(self) -> None:
        task, last = self._progress.add_task(self._title, total=None, facts="waiting for workers", left=""), False
        while not last:
            last = self._stop.wait(0.5)
            facts = self._read()
            if "steps" in facts:
                left, words = self._left(facts), describe(facts)
                self._progress.update(task, total=facts["steps"], completed=facts["step"], left=left, facts=words)

    def _lines(self) -> None:
        shown, shown_at, last = -1, time.monotonic(), False
        while not last:
            last = self._stop.wait(0.5)
            facts = self._read()
            if "steps" not in facts:
                continue
            left, now, step, steps = self._left(facts), time.monotonic(), facts["step"], facts["steps"]
            if step != shown and (last or step == steps or now - shown_at >= LINE_EVERY_S):
                self.say("  ".join(filter(None, [self._title, f"{self._unit} {step}/{steps}", describe(facts), left])))
                shown, shown_at = step, now
