"""What a terminal and a log show of a sweep, and what MLflow tells of it."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from pipeline.sweep_plan import Outcome
from pipeline.sweep_tracking import description, leaderboard_columns, summary
from pipeline.sweep_view import SweepView, ending, line, table
from tests.unit.pipeline.small_sweep import small_sweep, trial

TRIALS = [
    trial(0, Outcome.FINISHED, 0.1, 0.431, lr=0.0021),
    trial(1, Outcome.STOPPED, 0.1, lr=0.1),
    trial(2, Outcome.DIVERGED, lr=0.09, kind="adamw", reason="the pixel loss is not finite at step 3"),
    trial(3, Outcome.OPEN, 0.2),
    trial(4, Outcome.OPEN),
]
FACTS = {"3": {"step": 12, "steps": 40, "loss": 1.25, "miou": 0.2, "images_per_s": 9.5}}


def test_a_line_tells_how_far_it_is() -> None:
    assert line(small_sweep(), TRIALS, FACTS) == (
        "small-1  3 of 6 trials ended, 1 running (3: 12/40); best miou 43.10 % (trial 0)"
    )
    assert line(small_sweep(), [], {}) == "small-1  0 of 6 trials ended"


def test_an_end_is_told_with_its_reason() -> None:
    assert [ending(one, "miou") for one in TRIALS[:3]] == [
        "finished with miou 43.10 %",
        "stopped at 25 % of its steps with miou 10.00 %",
        "diverged: the pixel loss is not finite at step 3",
    ]


def _shown(num_rows: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=140).print(table(small_sweep(), TRIALS, FACTS, num_rows, 65.0))
    return [" ".join(re.sub("[│┃]", " ", text).split()) for text in stream.getvalue().splitlines()]


def test_the_table_has_what_runs_first_and_then_the_best() -> None:
    rows = _shown(10)
    assert rows[0] == "small-1 65 s"
    assert rows[1] == "trial optim.lr optim.kind state step miou %"
    assert rows[3:8] == [
        "3 0.01 sgd running 12/40 20.00 loss 1.250 9.5 images/s",
        "4 0.01 sgd waiting",
        "0 0.0021 sgd finished 40 43.10",
        "1 0.1 sgd stopped 10 10.00",
        "2 0.09 adamw diverged the pixel loss is not finite at step 3",
    ]
    assert rows[8] == "1 to begin"
    assert _shown(3)[-1] == "2 not shown, 1 to begin"


def test_a_log_is_told_each_end_once(capsys: pytest.CaptureFixture[str]) -> None:
    with SweepView(small_sweep()) as view:
        view.show(TRIALS[3:], FACTS)
        view.show(TRIALS, FACTS)
        view.show(TRIALS, FACTS)
    assert capsys.readouterr().err.splitlines() == [
        "small-1  trial 0 finished with miou 43.10 %  optim.lr 0.0021  optim.kind sgd",
        "small-1  trial 1 stopped at 25 % of its steps with miou 10.00 %  optim.lr 0.1  optim.kind sgd",
        "small-1  trial 2 diverged: the pixel loss is not finite at step 3  optim.lr 0.09  optim.kind adamw",
    ]


def test_the_leaderboard_has_a_row_for_each_trial() -> None:
    columns = leaderboard_columns(TRIALS, small_sweep(), {"small-1-000": "http://mlflow/0"})
    rows = list(zip(*columns.values(), strict=True))
    assert list(columns) == [
        *("place", "trial", "miou %", "outcome", "done %", "steps", "optim.lr", "optim.kind", "run", "why")
    ]
    assert rows[0] == (1, 0, 43.1, "finished", 100, 40, "0.0021", "sgd", "http://mlflow/0", "")
    assert rows[-1] == (
        *(5, 2, None, "diverged", 0, 0, "0.09", "adamw", ""),
        "the pixel loss is not finite at step 3",
    )


def test_the_page_says_what_was_found() -> None:
    assert summary([]) == "no trials yet"
    assert summary(TRIALS) == "2 open, 1 finished, 1 stopped early, 1 diverged"
    text = description(TRIALS, small_sweep())
    assert text.startswith("Sweep over `optim.lr`, `optim.kind` of `made_up`: 2 open, 1 finished, ")
    assert "Best: trial 0 with 43.10 % miou: `optim.lr` = 0.0021, `optim.kind` = sgd." in text
    assert "Best:" not in description(TRIALS[1:], small_sweep())
    assert description([], small_sweep()).endswith("Artifacts: the trials in order (`leaderboard.json`).")
