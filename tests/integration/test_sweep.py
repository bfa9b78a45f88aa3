"""A short sweep on the real stack. How one is stopped, killed and resumed is a drill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Page, expect

from tests.integration.browser import shoot
from tests.integration.command import json_result, run_encnet
from tests.integration.conftest import TINY
from tests.running_stack import RunningStack

SWEEP = (
    *("sweep", "context_scenes_r18", *TINY[2:], "--name=short", "--optim.max-steps=8", "--num-workers=1"),
    *("--registered-model=encnet-short", "--space=optim.lr=choice:0.002,0.004", "--searcher=grid", "--scheduler=fifo"),
)


@pytest.fixture(scope="module")
def swept(scenes: str) -> dict[str, Any]:
    """What a sweep of two trials ended with."""
    return json_result(run_encnet(*SWEEP, f"--data={scenes}"))


def test_the_best_trial_is_the_candidate(stack: RunningStack, scenes: str, swept: dict[str, Any]) -> None:
    client = MlflowClient(stack.environment["MLFLOW_TRACKING_URI"])
    scores = {one["number"]: one["score"] for one in swept["trials"]}
    assert sorted(scores) == [0, 1]
    assert swept["best"]["score"] == max(scores.values())
    assert client.get_model_version_by_alias("encnet-short", "candidate").version == swept["model_uri"][-1]
    experiment = client.get_run(swept["run_id"]).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{swept['run_id']}'")
    assert {run.info.run_name for run in children} == {"short-000", "short-001"}
    used = run_encnet(*SWEEP, f"--data={scenes}")
    assert used.returncode == 2
    assert "encnet: name: 'short' is used already: go on with --resume short" in used.stderr


def test_the_sweep_s_page_has_its_trials_and_pictures(swept: dict[str, Any], page: Page, shots: Path) -> None:
    best = f"short-{swept['best']['number']:03d}"
    page.goto(swept["run_url"].partition("/runs/")[0] + "/runs")
    expect(page.get_by_role("link", name="short", exact=True).first).to_be_visible()
    shoot(page, shots / "7-sweeps.png")
    page.goto(swept["run_url"])
    expect(page.get_by_text("Best: trial").first).to_be_visible()
    expect(page.get_by_text(best).first).to_be_visible()
    shoot(page, shots / "7-sweep.png")
    page.goto(swept["run_url"] + "/artifacts")
    page.get_by_text("parallel_coordinates.png", exact=True).first.click()
    expect(page.locator("img[src^='blob:'], .image-outer-container img, .ant-image-img").first).to_be_visible()
    shoot(page, shots / "7-parallel-coordinates.png")


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
