"""Which values trials get."""

from __future__ import annotations

import math

import pytest

from pipeline.sweep_config import BudgetConfig, SweepConfig
from pipeline.sweep_plan import Outcome, Score, Trial
from pipeline.sweep_space import Choice, IntRange, LogUniform
from pipeline.sweep_suggest import suggest
from tests.unit.pipeline.small_sweep import small_sweep, trial


def test_random_values_depend_on_seed_and_number_only() -> None:
    sweep = small_sweep()
    values = [suggest(sweep, [], number) for number in range(20)]
    assert values == [suggest(sweep, [trial(0, Outcome.FINISHED, 0.5)], number) for number in range(20)]
    assert values != [suggest(small_sweep(search_seed=1), [], number) for number in range(20)]
    assert len({one["optim.lr"] for one in values}) == 20
    assert {one["optim.kind"] for one in values} == {"sgd", "adamw"}
    assert all(sweep.trial(0, one).optim.lr == one["optim.lr"] for one in values)


def test_a_grid_is_gone_through_in_order() -> None:
    space = {"optim.kind": Choice(values=["sgd", "adamw"]), "optim.batch_size": IntRange(low=4, high=8, step=4)}
    sweep = small_sweep(space=space, searcher="grid")
    found = [tuple(suggest(sweep, [], number).values()) for number in range(sweep.num_trials)]
    assert found == [("sgd", 4), ("sgd", 8), ("adamw", 4), ("adamw", 8)]


def _tpe(**changes: object) -> SweepConfig:
    space = {
        "optim.lr": LogUniform(low=1e-4, high=1e-1),
        "optim.kind": Choice(values=["sgd", "adamw"]),
        "optim.warmup_steps": IntRange(low=0, high=100, step=25),
    }
    return small_sweep(space=space, searcher="tpe", budget=BudgetConfig(trials=60), **changes)


def _score(values: dict[str, object]) -> float:
    """Best at a learning rate of 0.01, and with adamw."""
    distance = abs(math.log10(float(str(values["optim.lr"]))) + 2)
    return 0.6 - 0.2 * distance - (0.1 if values["optim.kind"] == "sgd" else 0.0)


def _searched(sweep: SweepConfig, number: int) -> list[Trial]:
    trials: list[Trial] = []
    for place in range(number):
        values = suggest(sweep, trials, place)
        ended = Trial(number=place, values=values).scored(Score(1, 1.0, _score(values))).ended(Outcome.FINISHED)
        trials.append(ended)
    return trials


def test_tpe_comes_close_to_what_was_good() -> None:
    trials = _searched(_tpe(), 50)
    early = [one.score or 0.0 for one in trials[:10]]
    late = [one.score or 0.0 for one in trials[-10:]]
    assert sum(late) / 10 > sum(early) / 10 + 0.05
    assert min(late) > 0.4
    assert all(one.values["optim.warmup_steps"] in (0, 25, 50, 75, 100) for one in trials)


def test_tpe_goes_on_from_the_journal_as_if_it_had_never_been_away() -> None:
    trials = _searched(_tpe(), 14)
    stored = [Trial.from_dict(one.to_dict()) for one in trials[:12]]
    assert suggest(_tpe(), stored, 12) == trials[12].values
    assert suggest(_tpe(search_seed=5), stored, 12) != trials[12].values


@pytest.mark.parametrize("outcome", [Outcome.STOPPED, Outcome.DIVERGED, Outcome.OPEN])
def test_tpe_learns_from_trials_that_did_not_finish(outcome: Outcome) -> None:
    """With sgd trials came to nothing: adamw is asked for nearly always."""
    values = {"optim.lr": 0.01, "optim.warmup_steps": 25}
    good = [_made(number, {**values, "optim.kind": "adamw"}, Outcome.FINISHED, 0.5) for number in range(6)]
    bad = [_made(number, {**values, "optim.kind": "sgd"}, outcome, 0.1) for number in range(6, 16)]
    asked = [suggest(_tpe(), [*good, *bad], number)["optim.kind"] for number in range(16, 36)]
    assert asked.count("adamw") >= 14


def test_tpe_learns_nothing_from_trials_that_failed() -> None:
    trials = _searched(_tpe(), 11)
    failed = _made(11, {"optim.lr": 0.01, "optim.kind": "sgd", "optim.warmup_steps": 0}, Outcome.FAILED, 0.0)
    assert suggest(_tpe(), [*trials, failed], 12) == suggest(_tpe(), trials, 12)


def _made(number: int, values: dict[str, object], outcome: Outcome, score: float) -> Trial:
    scores = [Score(10, 1.0 if outcome is Outcome.FINISHED else 0.25, score)]
    return Trial(number=number, values=values, outcome=outcome, scores=scores)
