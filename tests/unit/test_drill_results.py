"""The table of what drills found: what it counts, and that a drill's row takes the place of its last one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.drills import results
from tests.drills.results import Found, compare, count_samples, count_twice

FOUND = Found(drill="a", lost=0, repeated=0, differing=0, final=0.0, recovery_s=12.3, redone=4, twice=0)


@pytest.mark.parametrize(
    ("steps", "lost", "repeated"),
    [
        ([[1, 2], [3, 4]], 0, 0),
        ([[2, 1], [3, 4]], 0, 0),
        ([[1], [3, 4]], 1, 0),
        ([[1, 2, 2], [3, 4]], 0, 1),
        ([[1, 3], [3, 4]], 1, 1),
        ([[3, 4], [1, 2]], 4, 4),
        ([[], [3, 4]], 2, 0),
    ],
)
def test_samples_are_counted_step_by_step(steps: list[list[int]], lost: int, repeated: int) -> None:
    assert count_samples(steps, [[1, 2], [3, 4]]) == (lost, repeated)


def test_losses_and_points_are_counted() -> None:
    assert compare([1.0, 2.0, 3.0], [1.0, 2.001, 3.0001]) == (1, pytest.approx(3.3e-5, rel=0.02))
    assert count_twice({"a": [5, 10, 15], "b": [5, 5, 10, 5]}) == 2


def test_a_run_of_other_length_is_no_match() -> None:
    with pytest.raises(ValueError, match="longer"):
        count_samples([[1]], [[1], [2]])


def test_rows_are_kept_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FILE", tmp_path / "RESULTS.md")
    results.write([FOUND, replace(FOUND, drill="b", redone=None)], "so")
    table = results.write([replace(FOUND, lost=2, final=0.00012)], "so")
    rows = [line.strip("| ").split(" | ")[:-1] for line in table.splitlines()[2:]]
    assert rows == [
        ["a", "2", "0", "0", "1.2e-04", "12", "4", "0"],
        ["b", "0", "0", "0", "0", "12", "?", "0"],
    ]
    assert (tmp_path / "RESULTS.md").read_text().endswith(f"\n\n{table}\n")
