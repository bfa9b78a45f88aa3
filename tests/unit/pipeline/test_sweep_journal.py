"""The journal of a sweep on storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.sweep_journal import open_journal, stored_sweep
from pipeline.sweep_plan import Outcome, Score
from tests.unit.pipeline.small_sweep import small_sweep, trial


def test_a_sweep_is_read_back_as_it_was_kept(tmp_path: Path) -> None:
    journal, sweep = open_journal(str(tmp_path), "small-1"), small_sweep()
    assert not journal.exists()
    journal.begin(sweep)
    assert journal.exists()
    assert stored_sweep(str(tmp_path), "small-1") == sweep
    assert journal.trials() == []
    first = trial(2, Outcome.OPEN, 0.25)
    journal.keep(first)
    journal.keep(trial(1000, Outcome.FAILED, reason="it broke"))
    journal.keep(trial(101, Outcome.DIVERGED))
    after = first.scored(Score(20, 0.5, 0.5)).ended(Outcome.FINISHED)
    journal.keep(after)
    assert journal.trial(2) == after
    assert [one.number for one in journal.trials()] == [2, 101, 1000]


def test_a_sweep_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"resume: no sweep 'small-2' in .*/sweeps: no sweep has been started there"):
        stored_sweep(str(tmp_path), "small-2")
    open_journal(str(tmp_path), "small-1").begin(small_sweep())
    with pytest.raises(InputError, match=r"did you mean 'small-1'\?"):
        stored_sweep(str(tmp_path), "small-2")
