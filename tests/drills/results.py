"""What drills found, as a table: printed, and kept in RESULTS.md."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("RESULTS.md")
_HEADINGS = (
    "drill",
    "steps that differ",
    "final loss against the undisturbed",
    "seconds to recover",
    "steps redone",
    "points twice in MLflow",
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of one drill."""

    drill: str
    differing: int
    """Steps whose loss is not the undisturbed run's within 1e-4: a sample lost or seen twice makes it another."""
    final: float
    """Relative difference of the last step's loss."""
    recovery_s: float
    """From the fault until workers train again."""
    redone: int
    """Steps that were done twice, since there was no checkpoint of them."""
    twice: int
    """Points of a metric and step of which MLflow has several."""

    def row(self) -> tuple[str, ...]:
        """As cells of the table."""
        return (
            self.drill,
            str(self.differing),
            f"{self.final:.1e}",
            f"{self.recovery_s:.0f}",
            str(self.redone),
            str(self.twice),
        )


def compare(losses: Sequence[float], undisturbed: Sequence[float]) -> tuple[int, float]:
    """(steps that differ, relative difference of the last)."""
    differences = [abs(ours - theirs) / abs(theirs) for ours, theirs in zip(losses, undisturbed, strict=True)]
    return sum(difference > 1e-4 for difference in differences), differences[-1]


def count_twice(histories: Mapping[str, Sequence[int]]) -> int:
    """How many points there are too many: metric -> the step of each of its points."""
    return sum(len(steps) - len(set(steps)) for steps in histories.values())


def write(found: Sequence[Found], steps: int) -> str:
    """Write RESULTS.md and return its table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (_HEADINGS, ["---"] * len(_HEADINGS))]
    lines += ["| " + " | ".join(each.row()) + " |" for each in found]
    commit = subprocess.run(
        ["git", "-C", str(FILE.parent), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    about = (
        f"`make drills`, after commit {commit or 'unknown'}, on {platform.machine()} with two cores: runs of {steps} "
        "steps on two workers, each on a host of its own (a network namespace), against the same run left alone."
    )
    table = "\n".join(lines)
    FILE.write_text(f"# What the drills found\n\n{about}\n\n{table}\n")
    return table
