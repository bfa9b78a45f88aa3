"""`encnet run` on the real stack: from data to champion, a second time nothing, and what breaks off goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.integration.command import ENCNET, json_result, run_encnet
from tests.integration.conftest import STEPS, TINY
from tests.integration.running import running
from tests.running_stack import RunningStack

MODEL = "encnet-chain"
WHY = "the first of its kind"


def chain(scenes: str, *options: str, steps: int = STEPS) -> tuple[str, ...]:
    """A chain of the tiny recipe."""
    fixed = ("--num-workers=2", f"--registered-model={MODEL}", f"--optim.max-steps={steps}")
    return ("run", *TINY[1:], f"--data={scenes}", *fixed, *options)


@pytest.fixture
def client(stack: RunningStack) -> MlflowClient:
    return MlflowClient(stack.environment["MLFLOW_TRACKING_URI"])


@pytest.fixture(scope="module")
def first(scenes: str) -> dict[str, Any]:
    """A chain that was run once."""
    return json_result(run_encnet(*chain(scenes, f"--why={WHY}")))


def actions(result: dict[str, Any]) -> dict[str, str]:
    return {step["step"]: step["action"] for step in result["steps"]}


def test_a_chain_ends_with_a_champion(first: dict[str, Any], client: MlflowClient) -> None:
    assert actions(first) == {"prepare": "skip", "train": "run", "evaluate": "run", "gate": "run", "promote": "run"}
    assert first["promoted"] is True
    assert 0 < first["miou"] < 1
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert first["model_uri"] == f"models:/{MODEL}/{champion.version}"


def test_one_run_ties_the_chain_together(first: dict[str, Any], client: MlflowClient) -> None:
    run = client.get_run(first["run_id"])
    assert (run.info.status, run.data.tags["kind"], run.data.tags["outcome"]) == ("FINISHED", "chain", "promoted")
    assert run.data.tags["model"] == first["model_uri"]
    assert run.data.metrics["eval/val/miou"] == pytest.approx(first["miou"], abs=1e-6)
    note = run.data.tags["mlflow.note.content"]
    assert [line.split("|")[1].strip() for line in note.splitlines() if line.startswith("| ")] == [
        "step", "prepare", "train", "evaluate", "gate", "promote"
    ]  # fmt: skip
    below = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{first['run_id']}'", max_results=10
    )
    assert {below_run.data.tags.get("kind", "training") for below_run in below} == {"training", "evaluation"}
    assert all(f"runs/{below_run.info.run_id}" in note for below_run in below)


def test_a_second_time_all_is_skipped(first: dict[str, Any], scenes: str, client: MlflowClient) -> None:
    versions = len(client.search_model_versions(f"name = '{MODEL}'"))
    second = json_result(run_encnet(*chain(scenes)))
    assert set(actions(second).values()) == {"skip"}
    assert {name: second[name] for name in ("run_id", "model_uri", "miou", "promoted")} == {
        name: first[name] for name in ("run_id", "model_uri", "miou", "promoted")
    }
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == versions
    assert client.get_run(first["run_id"]).info.status == "FINISHED"


@pytest.mark.usefixtures("first")
def test_a_dry_run_tells_what_would_be_done_and_does_nothing(scenes: str, client: MlflowClient) -> None:
    def runs() -> int:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return len(client.search_runs(experiments))

    before = runs()
    done = run_encnet(*chain(scenes, "--dry-run"))
    assert set(actions(json_result(done)).values()) == {"skip"}
    assert "[2/5] train     skip  done 20" in done.stdout
    other = json_result(run_encnet(*chain(scenes, "--dry-run", "--seed=9")))
    assert actions(other) == {"prepare": "skip", "train": "run", "evaluate": "run", "gate": "run", "promote": "run"}
    evaluated = json_result(run_encnet(*chain(scenes, "--dry-run", "--from=evaluate")))
    assert actions(evaluated)["train"] == "skip"
    assert actions(evaluated)["evaluate"] == "run"
    refused = run_encnet(*chain(scenes, "--dry-run", "--seed=9", "--from=evaluate"))
    assert refused.returncode == 2
    assert "encnet: from: 'evaluate', but 'train' has yet to be done (not done yet): leave --from out" in refused.stderr
    assert runs() == before


@pytest.mark.long
def test_a_chain_that_was_killed_goes_on_and_what_is_worse_is_refused(
    first: dict[str, Any], scenes: str, client: MlflowClient, tmp_path: Path
) -> None:
    steps = 40
    worse = chain(scenes, "--optim.lr=1e-6", "--name=chain-killed", steps=steps)
    with running([*ENCNET, *worse], "chain-killed", tmp_path) as run:
        step = run.wait_for_checkpoint()
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
    done = run_encnet(*worse)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"encnet: models:/{MODEL}/")
    assert " is not promoted: mIoU: " in done.stderr.splitlines()[-1]
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["passed"], result["promoted"]) == (False, False)
    trained = [event["step"] for event in run.events("started") if event["step"]]
    assert trained == [] or min(trained) >= step
    assert len(run.checkpoints.read_state(run.checkpoints.names()[-1]).losses) == steps
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert f"models:/{MODEL}/{champion.version}" == first["model_uri"]
    again = run_encnet(*worse)
    assert again.returncode == 1
    assert set(actions(json.loads(again.stdout.splitlines()[-1])).values()) == {"skip"}
    assert again.stderr.splitlines()[-1] == done.stderr.splitlines()[-1]
