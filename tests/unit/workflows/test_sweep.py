"""`encnet sweep` before it meets a cluster: sweeps, how their fields are set, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.errors import InputError
from pipeline.sweep_config import SchedulerConfig
from pipeline.sweep_journal import open_journal
from pipeline.sweep_space import Choice, LogUniform
from tests.unit.pipeline.small_sweep import small_sweep
from workflows.recipes.sweeps import SWEEPS
from workflows.sweep import parse_space, resumed, sweep, sweep_config, sweep_list
from workflows.sweep_dry_run import first_trials, rungs


@pytest.mark.parametrize("name", sorted(SWEEPS))
def test_a_sweep_says_its_name_and_can_be_built(name: str) -> None:
    config = sweep_config(name, {"optim.max_steps": "3"}, {}, {"budget.trials": 4})
    assert config.sweep == name
    assert config.num_trials == 4
    runs = [config.trial(one.number, one.values) for one in first_trials(config, 4)]
    assert {run.optim.max_steps for run in runs} == {3}
    assert len({run.optim.lr for run in runs}) == 4
    assert f"{name} " in sweep_list()


def test_fields_and_values_are_read_from_text() -> None:
    space = parse_space(["optim.batch-size=choice:4,8", "optim.lr=loguniform:1e-3:1e-1:5"])
    config = sweep_config("camvid_r18", {"optim.epochs": "2"}, space, {"searcher": "grid", "scheduler.kind": "median"})
    assert config.space == {
        "optim.batch_size": Choice(values=[4, 8]),
        "optim.lr": LogUniform(low=1e-3, high=1e-1, points=5),
    }
    assert (config.sweep, config.run.recipe, config.run.optim.epochs) == ("camvid_r18", "camvid_r18", 2)
    assert (config.num_trials, config.scheduler.kind) == (10, "median")


def test_what_is_no_sweep_is_refused() -> None:
    for name, said in (("camvid_lrr", "did you mean 'camvid_lr'?"), ("xyz", "known: ade20k_r101, ")):
        with pytest.raises(InputError) as caught:
            sweep_config(name, {}, {}, {})
        assert str(caught.value).startswith(f"SWEEP: {name!r}: no such sweep or recipe: {said}")
    with pytest.raises(InputError, match="space: empty: camvid_r18 is a recipe: name a field and its values"):
        sweep_config("camvid_r18", {}, {}, {})
    with pytest.raises(InputError, match=r"space: 'optim.lr': write FIELD=VALUES, VALUES one of choice:"):
        parse_space(["optim.lr"])


def test_a_resumed_sweep_keeps_what_decides_on_its_trials(tmp_path: Path) -> None:
    storage = str(tmp_path)
    stored = small_sweep()
    stored = replace(stored, run=replace(stored.run, storage=storage))
    open_journal(storage, "small-1").begin(stored)
    assert resumed("small-1", {"storage": storage}, {}, {}) == stored
    more = resumed("small-1", {"storage": storage, "workers.num": "1"}, {}, {"budget.trials": 9})
    assert (more.budget.trials, more.run.workers.num) == (9, 1)
    for run, space, own, said in (
        ({"optim.epochs": "3"}, {}, {}, "optim.epochs: 3.0, but the run "),
        ({}, {"optim.lr": {}}, {}, "space: a sweep that is resumed keeps it: "),
        ({}, {}, {"scheduler.kind": "fifo"}, "scheduler.kind: a sweep that is resumed keeps it: "),
    ):
        with pytest.raises(InputError) as caught:
            resumed("small-1", {"storage": storage, **run}, space, own)
        assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "SWEEP: missing: name one of context_scenes_lr, camvid_lr, a recipe, or a sweep with --resume"),
        (
            ["camvid_lr", "--resume", "x"],
            "SWEEP: a sweep that is resumed keeps its recipe and its name: leave them out",
        ),
        (
            ["camvid_lr", "--scheduler", "pbt"],
            "scheduler.kind: 'pbt' pauses trials and copies checkpoints between them",
        ),
        (["camvid_lr", "--optim.rate", "1"], "No such option"),
    ],
)
def test_a_mistake_is_told(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(sweep, arguments)
    assert done.exit_code != 0
    assert (str(done.exception) if isinstance(done.exception, InputError) else done.output).find(said) >= 0


def test_rungs_are_where_asha_has_them() -> None:
    from ray.tune.schedulers import AsyncHyperBandScheduler

    for grace, reduction in ((0.2, 3.0), (0.25, 2.0), (0.3, 2.0), (0.5, 4.0), (0.1, 3.0)):
        asha = AsyncHyperBandScheduler(grace_period=grace, max_t=1.0, reduction_factor=reduction)  # type: ignore[arg-type]
        theirs = sorted(float(milestone) for milestone, _ in asha._brackets[0]._rungs)
        ours = rungs(SchedulerConfig(grace=grace, reduction=reduction))
        assert ours == pytest.approx([at for at in theirs if at < 0.999])
