"""A short sweep on the real stack. How one is stopped, killed and resumed is a drill."""

from __future__ import annotations

import mlflow
from mlflow import MlflowClient

from tests.integration.command import json_result, run_encnet
from tests.integration.conftest import TINY
from tests.running_stack import RunningStack


def test_the_best_trial_is_the_candidate(stack: RunningStack, scenes: str) -> None:
    mlflow.set_tracking_uri(stack.environment["MLFLOW_TRACKING_URI"])
    client = MlflowClient()
    options = ("--name=short", "--optim.max-steps=8", "--num-workers=1", "--registered-model=encnet-short")
    search = ("--space=optim.lr=choice:0.002,0.004", "--searcher=grid", "--scheduler=fifo")
    sweep = ("sweep", "context_scenes_r18", *TINY[2:], f"--data={scenes}", *options, *search)
    result = json_result(run_encnet(*sweep))
    scores = {one["number"]: one["score"] for one in result["trials"]}
    assert sorted(scores) == [0, 1]
    assert result["best"]["score"] == max(scores.values())
    assert client.get_model_version_by_alias("encnet-short", "candidate").version == result["model_uri"][-1]
    experiment = client.get_run(result["run_id"]).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result['run_id']}'")
    assert {run.info.run_name for run in children} == {"short-000", "short-001"}
    used = run_encnet(*sweep)
    assert used.returncode == 2
    assert "encnet: name: 'short' is used already: go on with --resume short" in used.stderr


def test_a_sweep_without_room_is_refused(stack: RunningStack, scenes: str) -> None:
    refused = run_encnet("sweep", "context_scenes_lr", f"--data={scenes}", "--num-workers=90")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("encnet: workers.num: 90 workers need 90 CPUs, but the cluster")


def test_a_dry_run_tells_the_trials(stack: RunningStack, scenes: str) -> None:
    sweep = ("sweep", "context_scenes_lr", f"--data={scenes}", "--optim.max-steps=40", "--dry-run")
    told = json_result(run_encnet(*sweep, "--json"))
    assert (told["ok"], told["num_trials"], told["concurrent"]) == (True, 6, 2)
    assert len(told["first_trials"]) == 6
    done = run_encnet(*sweep)
    assert "asha: at 30 %, 60 % of the steps the best 1 in 2 go on" in done.stdout
    assert "room           for 2 trials at once, of 2 workers" in done.stdout
