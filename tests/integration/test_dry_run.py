"""`encnet train --dry-run` on a real stack: all is there, and what is not is told, without a trace left behind."""

from __future__ import annotations

import json

from pipeline.resume import runs_uri, store_config
from pipeline.storage import open_store
from tests.integration.command import json_result, run_encnet
from tests.integration.conftest import BATCH_SIZE, NUM_TRAIN, NUM_VAL, TINY
from tests.running_stack import RunningStack
from workflows.train import recipe_config


def test_a_run_that_could_start(stack: RunningStack, scenes: str) -> None:
    runs = open_store(runs_uri(stack.environment["ENCNET_STORAGE"]))
    before = runs.list()
    told = json_result(run_encnet(*TINY, f"--data={scenes}", "--num-workers=1:2", "--optim.epochs=3", "--dry-run"))
    assert told["ok"], told["checks"]
    assert runs.list() == before
    details = {check["name"]: check["detail"] for check in told["checks"]}
    assert set(details) == {
        "data set", "train split", "val split", "classes", "storage", "name", "MLflow", "Ray", "workers", "network",
        "memory", "schedule",
    }  # fmt: skip
    assert details["val split"].startswith(f"{NUM_VAL} samples in ")
    assert details["MLflow"] == f"{stack.environment['MLFLOW_TRACKING_URI']} answers"
    assert details["workers"] == "1 to 2, each with 1 CPU"
    assert told["cluster"]["nodes"] == 1
    assert told["plan"]["steps"] == 3 * NUM_TRAIN // BATCH_SIZE
    assert told["memory"]["images"] == BATCH_SIZE


def test_a_run_that_could_not(stack: RunningStack, scenes: str) -> None:
    storage = stack.environment["ENCNET_STORAGE"]
    store_config(recipe_config("context_scenes_r18", {"name": "dry-run-used", "storage": storage}))
    done = run_encnet(*TINY, f"--data={scenes}", "--name=dry-run-used", "--num-workers=99", "--dry-run")
    assert done.returncode == 2, done.stderr
    wrong = {check["name"]: check["detail"] for check in json.loads(done.stdout)["checks"] if not check["ok"]}
    failed = ", ".join(wrong)  # on a small machine so many workers don't fit into its memory either
    assert done.stderr == f"encnet: dry run: {len(wrong)} of 12 checks failed: {failed}: see above\n"
    assert wrong["name"].startswith("name: 'dry-run-used' is used already")
    assert wrong["workers"].startswith("workers.num: 99 workers need 99 CPUs, but the cluster has ")
