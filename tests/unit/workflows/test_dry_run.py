"""`encnet train --dry-run` where there is no cluster: what it says of the run, and each fault by itself."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch

import encnet
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.resume import store_config
from tests.running_stack import stack_variables
from tests.unit.pipeline.made_up_data import CLASSES, write_made_up
from workflows.dry_run import curve, report, settings, show
from workflows.run_checks import Findings, check_run
from workflows.train import recipe_config

CHANGES = {
    "model.num_classes": len(CLASSES),
    "augment.crop_size": "64,64",
    "model.output_stride": "32",
    "optim.epochs": "2",
    "optim.batch_size": "4",
    "optim.warmup_steps": "2",
}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No stack, and nobody else's storage or cluster."""
    for name in stack_variables(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path / "home"))


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A small run on 23 training samples, checkpoints on disk."""
    write_made_up(tmp_path / "data")
    places = {"data.uri": str(tmp_path / "data"), "storage": str(tmp_path / "storage")}
    return recipe_config("context_scenes_r18", CHANGES | places)


def outcomes(found: Findings) -> dict[str, bool]:
    return {check.name: check.ok for check in found.checks}


def detail(found: Findings, name: str) -> str:
    return next(check.detail for check in found.checks if check.name == name)


def test_all_is_looked_at_though_there_is_no_cluster(config: RunConfig, tmp_path: Path) -> None:
    found = check_run(config)
    assert outcomes(found) == {
        "data set": True,
        "train split": True,
        "val split": True,
        "classes": True,
        "storage": True,
        "name": True,
        "MLflow": False,
        "Ray": False,
        "network": True,
        "memory": True,
        "schedule": True,
    }
    assert detail(found, "MLflow").startswith("stack is not up: MLFLOW_TRACKING_URI is not set")
    assert detail(found, "Ray").startswith("stack is not up: RAY_ADDRESS is not set: run `encnet stack up`")
    assert detail(found, "train split").startswith("23 samples in 3 shards, ")
    assert [path for path in (tmp_path / "storage").rglob("*") if path.is_file()] == []
    assert found.plan
    assert (found.plan.steps, found.plan.validations) == (12, 2)
    assert found.memory
    assert found.memory.images == 2


def test_a_fault_hides_no_other(config: RunConfig, tmp_path: Path) -> None:
    missing = config.override({"data.uri": str(tmp_path / "nothing"), "model.input_scale": "0.25"})
    (tmp_path / "storage").write_text("a file where the folder should be")
    found = check_run(replace(missing, name="mine"))
    assert "no dataset.json there" in detail(found, "data set")
    assert (
        detail(found, "network") == "augment.crop_size: images: 64x64 is too small: pad or resize to at least 128x128"
    )
    assert not outcomes(found)["storage"]
    assert {"train split", "classes", "schedule", "memory"}.isdisjoint(outcomes(found))
    assert found.plan is None


def test_what_is_wrong_is_told_with_the_remedy(config: RunConfig) -> None:
    wrong = {
        "storage": "",
        "data.val_split": "test",
        "model.num_classes": 5,
        "start_weights": "nothing.pth",
    }
    found = check_run(config.override(wrong))
    assert detail(found, "storage").startswith("storage: empty: run 'encnet stack up', or give --storage")
    assert "test" in detail(found, "test split")
    assert detail(found, "classes").startswith("model.num_classes: 5, but ")
    assert detail(found, "classes").endswith("has 4 classes: use a recipe for this data set, or --model.num-classes 4")
    assert detail(found, "start weights").startswith("start_weights: nothing.pth")
    assert {check.name for check in found.failed} == {
        "storage", "test split", "classes", "start weights", "MLflow", "Ray"
    }  # fmt: skip
    found = check_run(config.override({"data.uri": "", "optim.warmup_steps": 12}))
    assert detail(found, "data set").startswith("data.uri: empty: name the data set with --data")
    found = check_run(config.override({"optim.warmup_steps": 12}))
    assert detail(found, "schedule") == "optim.warmup_steps: 12, and the run has 12 steps: give fewer"


def test_a_name_is_free_or_can_be_resumed(config: RunConfig) -> None:
    mine = replace(config, name="mine")
    assert detail(check_run(mine), "name") == "mine is free"
    store_config(mine)
    assert detail(check_run(mine, resume=True), "name") == "mine can be resumed"
    used = check_run(mine)
    assert not outcomes(used)["name"]
    said = "name: 'mine' is used already: go on with --resume mine, or choose another --name"
    assert detail(used, "name") == said


def test_start_weights_are_tried(config: RunConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encnet.save_weights(encnet.build_model(config.model), config.model, tmp_path / "start.safetensors")
    found = check_run(replace(config, start_weights=str(tmp_path / "start.safetensors")))
    assert outcomes(found)["start weights"]
    assert detail(found, "start weights").endswith("start.safetensors: all of it")


def test_who_set_a_field(config: RunConfig) -> None:
    who = {path: one.source for path, one in settings(config).items()}
    assert who["optim.epochs"] == who["optim.batch_size"] == who["data.uri"] == "given"
    assert who["optim.kind"] == who["loss.class_weighting"] == "recipe"
    assert who["optim.momentum"] == who["seed"] == "default"
    # Set to what the recipe has anyhow, or back to the default: told by what came of it.
    assert settings(config.override({"optim.kind": "adamw"}))["optim.kind"].source == "recipe"
    assert settings(config.override({"optim.kind": "sgd"}))["optim.kind"].source == "given"


def test_the_report_for_people(config: RunConfig) -> None:
    text = click.unstyle("\n".join(report(config, check_run(config))))
    for line in (
        r"^  \+   kind +adamw +default: sgd$",
        r"^  \*   epochs +2.0 +recipe: 1.5$",
        r"^      momentum +0.9$",
        r"^  steps          12 of 4 images: 2.1 epochs$",
        r"^  validations    2, after every epoch and at the end$",
        r"^  learning rate  poly, 0.00\d+ at most$",
        r"^  checkpoints    \d+.\d MB each \(weights \d+.\d MB, optimizer \d+.\d MB\)$",
        r"^memory of a worker  2 of 4 images of 64x64, float32$",
        r"^  ok    train split    23 samples in 3 shards, ",
        r"^  FAIL  MLflow         stack is not up",
    ):
        assert re.search(line, text, re.MULTILINE), f"{line} not in\n{text}"


def test_it_ends_in_an_error_once_all_is_shown(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^dry run: 2 of 11 checks failed: MLflow, Ray: see above$"):
        show(config, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"ok", "config", "set", "plan", "memory", "cluster", "checks"}
    assert told["ok"] is False
    assert RunConfig.from_dict(told["config"]) == config
    assert told["set"]["optim.epochs"] == "given"
    assert told["plan"]["steps"] == 12
    assert len(told["plan"]["learning_rates"]) == 12
    assert told["memory"]["peak"] > 4e7
    assert told["cluster"] is None
    assert {"name": "name", "ok": True, "detail": "one is made of the recipe and the time"} in told["checks"]


def test_curve() -> None:
    assert curve([0.0, 0.25, 0.5, 0.75, 1.0], rows=2) == ["   ▄█", " ▄███"]
    assert curve([0.0, 0.0], rows=2) == ["  ", "  "]
    rising = curve([float(value) for value in range(33)], rows=4)
    columns = ["".join(row[at] for row in reversed(rising)) for at in range(33)]
    assert len(set(columns)) == 33
