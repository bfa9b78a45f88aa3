"""How far the splits of a data set are: a bar for each on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 5.0
"""How often progress is told where there is no terminal to draw a bar on."""


class SplitProgress:
    """Told of what is done by calls with its split.

    Args:
        console: shows it.
        counts: how many there are to do in each split.
        what: they are, and is done with them, such as "shards read".
    """

    def __init__(self, console: Console, counts: Mapping[str, int], what: str) -> None:
        self._console = console
        self._counts = counts
        self._what = what
        self._done = dict.fromkeys(counts, 0)
        self._tasks: dict[str, TaskID] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._last_line = time.monotonic()

    def __enter__(self) -> SplitProgress:
        self._progress.start()
        self._tasks = {split: self._progress.add_task(split, total=count) for split, count in self._counts.items()}
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def __call__(self, split: str, count: int = 1) -> None:
        self._done[split] += count
        self._progress.advance(self._tasks[split], count)
        if not self._console.is_terminal and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(f"{split}: {self._done[split]} of {self._counts[split]} {self._what}")
