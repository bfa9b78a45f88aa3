"""A sweep is stopped, killed and resumed: no trial is repeated, and MLflow and the registry have it whole."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from pipeline.attempts import newest_state
from pipeline.checkpoint_store import open_checkpoints
from pipeline.sweep_journal import open_journal
from pipeline.sweep_plan import Outcome, Trial, best
from tests.integration.command import ENCNET, TIMEOUT_S, json_result, run_encnet
from tests.integration.conftest import NUM_TRAIN, NUM_VAL, TINY
from tests.integration.running import STORAGE, Run, run_events, running, training_workers, wait_until
from tests.running_stack import RunningStack

NAME = "sweep"
STEPS = 40
RATES = ("0.002", "0.004", "0.001", "1e30", "0.008", "0.0005")
"""Of which one diverges."""
SWEEP = (
    *(*ENCNET, "sweep", "context_scenes_r18", *TINY[2:]),
    *(f"--name={NAME}", f"--optim.max-steps={STEPS}", "--registered-model=encnet-sweep", "--num-workers=1"),
    *(f"--space=optim.lr=choice:{','.join(RATES)}", "--searcher=grid", "--concurrent=2"),
    *("--scheduler=asha", "--grace=0.2", "--reduction=2"),
)
RESUME = (*ENCNET, "sweep", f"--resume={NAME}", "--json")


@pytest.fixture(scope="module")
def scenes(stack: RunningStack) -> str:
    uri = "s3://encnet/drills/sweep"
    sizes = (f"--train-samples={NUM_TRAIN}", f"--val-samples={NUM_VAL}")
    done = run_encnet("data", "prepare", "context-scenes", "--dest", uri, *sizes)
    assert done.returncode == 0, done.stderr
    return uri


@pytest.fixture
def client(stack: RunningStack) -> MlflowClient:
    uri = stack.environment["MLFLOW_TRACKING_URI"]
    mlflow.set_tracking_uri(uri)  # tests that have a server of their own leave it there
    return MlflowClient(uri)


def _trials() -> list[Trial]:
    return open_journal(STORAGE, NAME).trials()


def _ended() -> list[Trial]:
    return [one for one in _trials() if one.outcome is not Outcome.OPEN]


def _under_way() -> list[Trial]:
    """The trials that have a checkpoint, and have not ended."""
    return [one for one in _trials() if one.outcome is Outcome.OPEN and _step(one)]


def _step(trial: Trial) -> int:
    """Of a trial's newest checkpoint; 0 for none."""
    state = newest_state(open_checkpoints(STORAGE, _run_name(trial)))
    return state.step if state else 0


def _run_name(trial: Trial) -> str:
    return f"{NAME}-{trial.number:03d}"


def _kinds(trial: Trial) -> list[str]:
    return [event["kind"] for event in run_events(STORAGE, _run_name(trial))]


def _children(client: MlflowClient, parent: str) -> dict[str, MlflowRun]:
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len({run.info.run_name for run in found}) == len(found), "a trial has two runs"
    return {str(run.info.run_name): run for run in found}


def _interrupt(run: Run, number: signal.Signals, num_ended: int) -> tuple[list[Trial], list[Trial]]:
    """Send a signal once so many trials have ended and another is under way; both of them, as they were before."""
    run.wait_for(f"{num_ended} trials at their end", lambda: len(_ended()) >= num_ended and _under_way())
    ended, open_ones = _ended(), _under_way()
    run.process.send_signal(number)
    return ended, open_ones


FREE_CPUS = """
import time
import ray
from pipeline.cluster import connect_ray
connect_ray()
deadline, total = time.monotonic() + 30, ray.cluster_resources()["CPU"]
while ray.available_resources().get("CPU", 0) != total and time.monotonic() < deadline:
    time.sleep(1)
print(total - ray.available_resources().get("CPU", 0))
"""


def test_a_sweep_that_is_stopped_while_workers_start_keeps_no_cpu(
    stack: RunningStack, scenes: str, tmp_path: Path
) -> None:
    early = [*SWEEP, f"--data={scenes}", "--name=early"]
    with running(early, "early", tmp_path) as run:
        run.wait_for("a trial that asks for workers", lambda: run_events(STORAGE, "early-000"))
        run.process.send_signal(signal.SIGTERM)
        run.end(143)
    assert all(one.outcome is Outcome.OPEN for one in open_journal(STORAGE, "early").trials())
    held = subprocess.run([sys.executable, "-c", FREE_CPUS], capture_output=True, text=True, check=True)
    assert held.stdout.split()[-1] == "0.0", held.stdout


@pytest.mark.timeout(1500)
def test_a_sweep_survives_its_driver(stack: RunningStack, scenes: str, tmp_path: Path, client: MlflowClient) -> None:
    with running((*SWEEP, f"--data={scenes}"), NAME, tmp_path / "first") as run:
        first, _ = _interrupt(run, signal.SIGTERM, 1)
        run.end(143)
    told = run.log().splitlines()
    assert "the trials write a checkpoint and leave; a second one ends at once" in run.log()
    assert told[-1].startswith("encnet: stopped by SIGTERM; ")
    assert told[-1].endswith(f" of 6 trials have ended: go on with encnet sweep --resume {NAME}")
    assert "Traceback" not in run.log()
    wait_until(lambda: not training_workers(stack), TIMEOUT_S, "the workers to leave")
    stopped = [one for one in _trials() if one.outcome is Outcome.OPEN]
    assert stopped
    assert all(_kinds(one)[-1] == "stopped" for one in stopped if _kinds(one))

    with running(RESUME, NAME, tmp_path / "second") as run:
        second, open_ones = _interrupt(run, signal.SIGKILL, 3)
        run.process.wait(TIMEOUT_S)
    wait_until(lambda: not training_workers(stack), TIMEOUT_S, "the workers of a dead driver to end")
    kinds = {one.number: _kinds(one) for one in second}
    steps = {one.number: _step(one) for one in open_ones}

    with running(RESUME, NAME, tmp_path / "third") as run:
        result = run.result()
    trials = _trials()
    assert [one.values["optim.lr"] for one in trials] == [float(rate) for rate in RATES]
    assert {one.outcome for one in trials} <= {Outcome.FINISHED, Outcome.STOPPED, Outcome.DIVERGED}
    assert trials[3].outcome is Outcome.DIVERGED
    assert "is not finite at step " in trials[3].reason
    for one in (*first, *second):
        assert trials[one.number] == one, "a trial that had ended was touched"
    assert {number: _kinds(trials[number]) for number in kinds} == kinds, "a trial that had ended was run again"
    for number, step in steps.items():
        if step == STEPS:
            continue  # it was through, but for the journal
        resumed = [event for event in run_events(STORAGE, _run_name(trials[number])) if event["kind"] == "resumed"]
        assert resumed
        assert resumed[-1]["step"] >= step, "steps before the checkpoint were done again"
    for one in trials:
        if one.outcome is Outcome.FINISHED:
            state = newest_state(open_checkpoints(STORAGE, _run_name(one)))
            assert state is not None
            assert (state.step, len(state.losses), state.ended) == (STEPS, STEPS, "finished")
            assert (one.scores[-1].step, one.scores[-1].value) == (STEPS, state.miou)
        elif one.outcome is Outcome.STOPPED and one not in second:  # of those the driver may have died meanwhile
            assert _kinds(one)[-1] in ("stopped", "finished"), f"{one}: it may end before it hears of it: {_kinds(one)}"

    winner = best(trials)
    assert winner is not None
    assert result["best"]["number"] == winner.number
    assert result["best"]["score"] == winner.score == max(one.score or 0 for one in trials if one.share == 1)
    assert result["trials"][0]["number"] == winner.number
    _check_mlflow(client, result["run_id"], trials, winner)
    (version,) = client.search_model_versions("name='encnet-sweep'")
    assert result["model_uri"] == f"models:/encnet-sweep/{version.version}"
    assert client.get_model_version_by_alias("encnet-sweep", "candidate").version == version.version
    assert version.run_id == _children(client, result["run_id"])[_run_name(winner)].info.run_id

    again = json_result(run_encnet(*RESUME[3:]))
    assert again == result
    assert _trials() == trials
    assert {one.number: _kinds(one) for one in trials if one.number in kinds} == kinds


def _check_mlflow(client: MlflowClient, parent: str, trials: list[Trial], winner: Trial) -> None:
    """One run for the sweep, one below it for each trial, and all that the sweep's has to tell."""
    run = client.get_run(parent)
    found = client.search_runs([run.info.experiment_id], f"tags.`encnet.run` = '{NAME}'")
    assert [one.info.run_id for one in found] == [parent]
    assert (run.info.status, run.info.run_name) == ("FINISHED", NAME)
    children = _children(client, parent)
    assert sorted(children) == [_run_name(one) for one in trials]
    for one in trials:
        child = children[_run_name(one)]
        assert child.data.tags["outcome"].startswith(str(one.outcome))
        assert float(child.data.params["optim.lr"]) == one.values["optim.lr"]
        expected = {
            Outcome.FINISHED: {"FINISHED"},
            Outcome.STOPPED: {"KILLED", "FINISHED"},
            Outcome.DIVERGED: {"FAILED"},
        }
        assert child.info.status in expected[one.outcome]
    table = json.loads(mlflow.artifacts.load_text(f"runs:/{parent}/leaderboard.json"))
    places = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert len(places) == len(trials)
    assert (places[0]["trial"], places[0]["outcome"]) == (winner.number, "finished")
    assert places[0]["run"].endswith(children[_run_name(winner)].info.run_id)
    config = json.loads(mlflow.artifacts.load_text(f"runs:/{parent}/best_config.json"))
    assert (config["name"], config["optim"]["lr"]) == (_run_name(winner), winner.values["optim.lr"])
    files = {file.path for file in client.list_artifacts(parent)}
    assert {"parallel_coordinates.png", "influence.png", "config.json"} <= files
    assert f"Best: trial {winner.number} with " in run.data.tags["mlflow.note.content"]
    scores = {point.step: point.value for point in client.get_metric_history(parent, "trial/miou")}
    assert scores == {one.number: one.score for one in trials if one.score is not None}
