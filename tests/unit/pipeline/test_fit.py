"""How a run leaves the loop."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.fit import how_it_ended
from tests.unit.pipeline.small_training import BEGUN


@pytest.mark.parametrize(
    ("step", "since_best", "patience", "stop", "validated", "ended"),
    [
        (5, 0, 0, False, True, ""),
        (5, 0, 0, False, False, ""),
        (5, 0, 0, True, False, "stopped"),
        (5, 0, 0, True, True, "stopped"),
        (9, 0, 0, False, True, "finished"),
        (9, 0, 0, True, True, "finished"),
        (9, 9, 3, False, True, "finished"),
        (9, 0, 0, False, False, ""),  # a preempted node's checkpoint before the last validation
        (5, 2, 3, False, True, ""),
        (5, 3, 3, False, True, "early"),
        (5, 3, 3, False, False, ""),
        (5, 3, 3, True, True, "stopped"),
        (5, 99, 0, False, True, ""),
    ],
)
def test_how_it_ended(step: int, since_best: int, patience: int, stop: bool, validated: bool, ended: str) -> None:
    state = replace(BEGUN, step=step, num_since_best=since_best)
    assert how_it_ended(state, 9, patience, stop=stop, validated=validated) == ended
