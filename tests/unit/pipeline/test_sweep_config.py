"""A sweep's configuration: what it takes, what it refuses, and the runs that its trials are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.config import flat
from pipeline.errors import InputError
from pipeline.sweep_config import BudgetConfig, SweepConfig
from pipeline.sweep_space import Choice, IntRange
from tests.unit.pipeline.small_sweep import small_sweep


def _refusal(**values: Any) -> str:
    with pytest.raises(InputError) as caught:
        SweepConfig.from_dict({**small_sweep().to_dict(), **values})
    return str(caught.value)


def test_it_is_the_same_after_storage() -> None:
    sweep = small_sweep()
    assert SweepConfig.from_dict(sweep.to_dict()) == sweep


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"space": {}}, "space: empty: name a field and its values, --space optim.lr=loguniform:1e-4:1e-1"),
        (
            {"space": {"optim.rate": {"kind": "uniform", "low": 0, "high": 1}}},
            "space: optim.rate: no such field: ",
        ),
        (
            {"space": {"workers.num": {"kind": "int", "low": 1, "high": 4}}},
            "space: workers.num: makes no difference to what a trial learns: set it for all of them",
        ),
        (
            {"space": {"optim.lr": {"kind": "uniform", "low": -1, "high": 1}}},
            "optim.lr: -1.0 must be greater than 0",
        ),
        ({"space": {"optim.lr": {"kind": "choice", "values": [0.1, "fast"]}}}, "optim.lr: 'fast': "),
        ({"metric": "loss"}, "metric: 'loss': give miou, or iou/CLASS"),
        ({"searcher": "grid"}, "space: optim.lr: a grid needs to know how many values: loguniform:0.0001:0.1:POINTS"),
        ({"searcher": "guess"}, "searcher: 'guess': input should be 'random', 'grid' or 'tpe'"),
        ({"scheduler": {"kind": "ashaa"}}, "scheduler.kind: 'ashaa': did you mean 'asha'?"),
        ({"scheduler": {"grace": 1.5}}, "scheduler.grace: 1.5 is out of range: give a share of the steps, such as 0.2"),
        ({"scheduler": {"reduction": 1}}, "scheduler.reduction: 1.0 must be greater than 1"),
        ({"budget": {"trials": 0}}, "budget.trials: 0 must be 1 or more"),
        ({"budget": {"wall_s": -1}}, "budget.wall_s: -1.0 must be 0 or more"),
        ({"budgets": {}}, "budgets: no such field: "),
    ],
)
def test_what_is_wrong_is_told(values: dict[str, Any], message: str) -> None:
    assert _refusal(**values).startswith(message)


def test_pbt_is_refused_with_the_reason() -> None:
    assert _refusal(scheduler={"kind": "pbt"}) == (
        "scheduler.kind: 'pbt' pauses trials and copies checkpoints between them, and Ray Tune has none of them: each "
        "run keeps its own on storage, and goes on from no other's: use asha, median or fifo"
    )


def test_validation_beside_training_is_refused() -> None:
    run = small_sweep().run.override({"validation.where": "beside"})
    assert _refusal(run=run.to_dict()).startswith("run.validation.where: 'beside' gives the scores too late")


def test_a_trial_is_the_run_with_its_values() -> None:
    sweep = small_sweep()
    run = sweep.trial(3, {"optim.lr": 0.02, "optim.kind": "adamw"})
    differs = {path: value for path, value in flat(run.to_dict()).items() if value != flat(sweep.run.to_dict())[path]}
    assert differs == {
        "name": "small-1-003",
        "optim.lr": 0.02,
        "optim.kind": "adamw",
        "validation.where": "in_loop",
    }


def test_a_grid_has_no_more_trials_than_points() -> None:
    space = {"optim.kind": Choice(values=["sgd", "adamw"]), "optim.batch_size": IntRange(low=4, high=8, step=2)}
    sweep = small_sweep(space=space, searcher="grid", budget=BudgetConfig(trials=20))
    assert sweep.num_trials == 6
    assert replace(sweep, budget=BudgetConfig(trials=4)).num_trials == 4
    assert replace(sweep, searcher="random").num_trials == 20


def test_fields_are_changed_by_their_dotted_names() -> None:
    changed = small_sweep().changed(
        run={"optim.epochs": "2", "optim.lr": "0.5"},
        space={"optim.batch_size": {"kind": "choice", "values": ["4", "8"]}},
        own={"scheduler.kind": "median", "budget.trials": 9, "name": "other"},
    )
    assert list(changed.space) == ["optim.kind", "optim.batch_size"], "a field that is set does not vary any more"
    assert changed.space["optim.batch_size"] == Choice(values=[4, 8])
    assert (changed.run.optim.epochs, changed.run.optim.lr) == (2.0, 0.5)
    assert (changed.scheduler.kind, changed.scheduler.grace) == ("median", 0.25)
    assert (changed.budget.trials, changed.name) == (9, "other")
