"""Which steps of a chain are done and which skipped: properties over all that may have been done before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encnet import ModelConfig
from pipeline.chain_plan import (
    STEPS,
    Asked,
    Record,
    Step,
    as_judged,
    config_identity,
    decide,
    from_json,
    inputs_of,
    preview,
    run_name,
    times_trained,
    to_json,
)
from pipeline.config import DataConfig, OptimConfig, RunConfig, WorkersConfig
from pipeline.errors import InputError
from pipeline.evaluation_plan import Protocol
from pipeline.gates import GatesConfig

URI = "s3://encnet/data/scenes"
CONFIG = RunConfig(recipe="scenes", model=ModelConfig(num_classes=3), data=DataConfig(uri=URI))
ASKED = Asked(config=CONFIG, protocol=Protocol(data=URI), gates=GatesConfig())
RESULTS = {
    "prepare": {"digest": "d1"},
    "train": {"model_uri": "models:/m/1", "times": "1"},
    "evaluate": {"run_id": "e1"},
    "gate": {"passed": "yes", "champion": ""},
    "promote": {"version": "1"},
}


def all_done(asked: Asked = ASKED, results: dict[str, dict[str, str]] | None = None) -> dict[str, Record]:
    """Every step, done as `asked` and with these results."""
    given = RESULTS if results is None else results
    records: dict[str, Record] = {}
    for step in STEPS:
        inputs = inputs_of(step, asked, given)
        assert inputs is not None
        records[step] = Record(inputs=inputs, result=given[step], at="2026-11-23 10:00 UTC")
    return records


DONE = all_done()  # once here: the first plain form of a configuration takes longer than a test may


def done_again(done: dict[str, Record], asked: Asked = ASKED, start: Step | None = None) -> list[str]:
    return [decision.step for decision in preview(asked, done, start) if decision.does]


def test_a_second_time_nothing_is_left_to_do() -> None:
    assert done_again(all_done()) == []
    assert done_again({}) == list(STEPS)


@given(st.sets(st.sampled_from(STEPS)))
def test_from_the_first_step_that_is_missing_all_are_done(missing: set[Step]) -> None:
    done = {step: record for step, record in DONE.items() if step not in missing}
    first = min((STEPS.index(step) for step in missing), default=len(STEPS))
    assert done_again(done) == list(STEPS[first:])


@given(st.sampled_from(STEPS), st.sets(st.sampled_from(STEPS)))
def test_from_makes_all_be_done_from_there_and_asks_for_those_before(start: Step, missing: set[Step]) -> None:
    done = {step: record for step, record in DONE.items() if step not in missing}
    before = STEPS[: STEPS.index(start)]
    lacking = [step for step in before if step in missing]
    if lacking:
        with pytest.raises(
            InputError, match=rf"^from: '{start}', but '{lacking[0]}' has yet to be done \(not done yet\)"
        ):
            preview(ASKED, done, start)
    else:
        assert done_again(done, start=start) == list(STEPS[len(before) :])


@pytest.mark.parametrize(
    ("changed", "first", "reason"),
    [
        ({"config": replace(CONFIG, optim=OptimConfig(lr=0.5))}, "train", "another recipe than when it was done"),
        ({"config": replace(CONFIG, seed=1)}, "train", "another recipe than when it was done"),
        ({"protocol": Protocol(data=URI, flip=True)}, "evaluate", "another protocol than when it was done"),
        ({"gates": GatesConfig(min_gain=0.01)}, "gate", "another gates than when it was done"),
    ],
)
def test_a_change_makes_its_own_step_be_done_again_and_says_which(
    changed: dict[str, Any], first: Step, reason: str
) -> None:
    asked = replace(ASKED, **changed)
    decisions = {decision.step: decision for decision in preview(asked, all_done(), None)}
    assert [step for step in STEPS if decisions[step].does] == list(STEPS[STEPS.index(first) :])
    assert decisions[first].reason == reason
    assert asked.key != ASKED.key


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, workers=WorkersConfig(num=7, cpus=3)),
        replace(CONFIG, name="another", storage="s3://elsewhere"),
        replace(CONFIG, data=replace(CONFIG.data, threads=9, cache_dir="/tmp/x")),
    ],
)
def test_where_it_runs_changes_nothing(config: RunConfig) -> None:
    asked = replace(ASKED, config=config)
    assert asked.key == ASKED.key
    assert done_again(all_done(), asked) == []


def test_the_workers_and_the_batch_of_an_evaluation_change_nothing() -> None:
    asked = replace(ASKED, protocol=Protocol(data=URI, num_workers=9, batch_size=1))
    assert asked.key == ASKED.key
    assert done_again(all_done(), asked) == []


@given(st.sampled_from(["prepare", "train", "evaluate"]))
def test_another_result_is_another_input_of_what_comes_after(step: str) -> None:
    names = {"prepare": "digest", "train": "model_uri", "evaluate": "run_id"}
    results = {**RESULTS, step: {**RESULTS[step], names[step]: "other"}}
    after = STEPS[STEPS.index(step) + 1]
    decision = decide(after, inputs_of(after, ASKED, results), all_done()[after], None)
    assert decision.does
    assert decision.reason.startswith("another ")


@pytest.mark.parametrize(
    ("passed", "then", "now", "is_again"),
    [
        ("no", "2", "2", False),
        ("no", "2", "3", True),
        ("no", "2", "", True),
        ("yes", "2", "3", False),
        ("no", "", "", False),
    ],
)
def test_a_refusal_stands_until_there_is_another_champion(passed: str, then: str, now: str, is_again: bool) -> None:
    done = all_done()
    done["gate"] = replace(done["gate"], result={"passed": passed, "champion": then})
    decisions = {one.step: one for one in preview(ASKED, {**done, "gate": as_judged(done["gate"], now)}, None)}
    assert decisions["gate"].does == is_again
    assert not is_again or decisions["gate"].reason == "another champion than when it was done"


def test_a_run_is_named_after_its_inputs() -> None:
    name = run_name(ASKED, "d1", 1)
    assert name.startswith("scenes-")
    assert run_name(replace(ASKED, config=replace(CONFIG, workers=WorkersConfig(num=9))), "d1", 1) == name
    others = {run_name(replace(ASKED, config=replace(CONFIG, seed=2)), "d1", 1), run_name(ASKED, "d2", 1)}
    assert len({name, *others}) == 3
    assert run_name(ASKED, "d1", 3) == f"{name}-3"
    assert run_name(replace(ASKED, config=replace(CONFIG, name="mine")), "d1", 2) == "mine-2"


def test_what_is_trained_again_is_another_run_until_it_is_done() -> None:
    done = Record(inputs={}, result={"times": "2"}, at="")
    assert times_trained(None, again=False) == times_trained(done, again=False) == times_trained(None, again=True) == 1
    assert times_trained(done, again=True) == 3


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()), st.text())
def test_a_record_is_kept_as_it_was(inputs: dict[str, str], result: dict[str, str], at: str) -> None:
    record = Record(inputs=inputs, result=result, at=at)
    assert from_json(to_json(record)) == record


@given(st.text() | st.sampled_from(["null", "[]", "{}", '{"inputs": 1, "result": {}, "at": ""}', '{"inputs": {}}']))
def test_what_is_no_record_counts_as_not_done(text: str) -> None:
    assert from_json(text) is None


def test_records_fit_a_tag_of_mlflow() -> None:
    for record in all_done(
        results={**RESULTS, "gate": {"passed": "no", "verdicts": "x" * 1500, "text": "x" * 1500}}
    ).values():
        assert len(to_json(record)) < 5000


def test_every_field_of_a_recipe_counts_or_is_known_not_to() -> None:
    identity = config_identity(CONFIG)
    assert {"optim.lr", "seed", "model.backbone", "augment.crop_size", "data.train_split"} <= identity.keys()
    assert not {"name", "storage", "experiment", "workers.num", "data.uri", "registered_model"} & identity.keys()
