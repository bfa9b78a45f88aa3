"""What drills found, as a table: printed, and kept in RESULTS.md."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("RESULTS.md")
TOLERANCE = 1e-4
"""Relative; of losses."""
_HEADINGS = (
    "drill",
    "samples lost",
    "samples seen twice",
    "steps whose loss differs",
    "final loss against the undisturbed",
    "seconds to recover",
    "steps redone",
    "points twice in MLflow",
    "after commit",
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of one drill."""

    drill: str
    lost: int
    """Samples of the undisturbed run's steps that were not in this run's."""
    repeated: int
    """Samples of this run's steps that were not in the undisturbed run's."""
    differing: int
    """Steps whose loss is not the undisturbed run's within `TOLERANCE`."""
    final: float
    """Relative difference of the last step's loss."""
    recovery_s: float
    """From the fault until storage has a checkpoint of a later step than was done then."""
    redone: int | None
    """Steps that were done twice, since there was no checkpoint of them; None where nobody was left to tell."""
    twice: int
    """Points of a metric and step of which MLflow has several."""

    def row(self) -> tuple[str, ...]:
        """As cells of the table."""
        return (
            self.drill,
            str(self.lost),
            str(self.repeated),
            str(self.differing),
            f"{self.final:.1e}" if self.final else "0",
            f"{self.recovery_s:.0f}",
            "?" if self.redone is None else str(self.redone),
            str(self.twice),
        )


def compare(losses: Sequence[float], undisturbed: Sequence[float]) -> tuple[int, float]:
    """(steps that differ, relative difference of the last)."""
    differences = [abs(ours - theirs) / abs(theirs) for ours, theirs in zip(losses, undisturbed, strict=True)]
    return sum(difference > TOLERANCE for difference in differences), differences[-1]


def count_samples(steps: Sequence[Sequence[int]], undisturbed: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(samples lost, samples seen twice), step by step: one that came in another step's batch is both."""
    pairs = [(Counter(ours), Counter(theirs)) for ours, theirs in zip(steps, undisturbed, strict=True)]
    return sum((theirs - ours).total() for ours, theirs in pairs), sum(
        (ours - theirs).total() for ours, theirs in pairs
    )


def count_twice(histories: Mapping[str, Sequence[int]]) -> int:
    """How many points there are too many: metric -> the step of each of its points."""
    return sum(len(steps) - len(set(steps)) for steps in histories.values())


def write(found: Sequence[Found], about: str) -> str:
    """Put what was found into RESULTS.md, rows of other drills kept, and return the whole table; `about` tells how."""
    asked = ["git", "-C", str(FILE.parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    rows = _known_rows() | {each.drill: _line((*each.row(), commit or "unknown")) for each in found}
    table = "\n".join([_line(_HEADINGS), _line(["---"] * len(_HEADINGS)), *rows.values()])
    where = f"`make drills` on {platform.machine()} with {os.cpu_count()} cores: {about}"
    FILE.write_text(f"# What the drills found\n\n{where}\n\n{table}\n")
    return table


def _known_rows() -> dict[str, str]:
    """Drill -> its line in RESULTS.md."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    rows = [line for line in lines if line.startswith("| ")][2:]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
