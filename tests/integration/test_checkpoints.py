"""Checkpoints by the clock, on S3: a run that goes on from one, past a broken one, ends as one never disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.checkpoint import SCORES, STATE, WEIGHTS
from pipeline.checkpoint_store import CheckpointStore, open_checkpoints
from tests.integration.command import json_result, run_encnet
from tests.integration.conftest import BATCH_SIZE, NUM_TRAIN, STEPS, TINY, Trained
from tests.running_stack import RunningStack

PER_EPOCH = NUM_TRAIN // BATCH_SIZE
COMMAND = (*TINY, "--validation.every-epochs=100", "--num-workers=2", "--optim.max-steps=22")


@pytest.fixture(scope="module")
def undisturbed(scenes: str) -> dict[str, Any]:
    return json_result(run_encnet(*COMMAND, f"--data={scenes}", "--name=by-the-end"))


@pytest.mark.long
def test_a_run_resumed_from_a_checkpoint_by_the_clock_equals_the_undisturbed_one(
    scenes: str, undisturbed: dict[str, Any], stack: RunningStack, tmp_path: Path
) -> None:
    options = ("--checkpoint.every-s=0.01", "--checkpoint.keep-last=99")
    first = json_result(run_encnet(*COMMAND, f"--data={scenes}", "--name=by-the-clock", *options))
    assert first["losses"] == undisturbed["losses"]
    checkpoints = open_checkpoints("s3://encnet", "by-the-clock")
    names = checkpoints.names()
    assert len(names) >= 3, "one by the clock, one to be broken, the last"
    _cut_off_after(checkpoints, names[-2])
    _break(checkpoints, names[-2], tmp_path)
    again = run_encnet("train", "--resume", "by-the-clock", "--checkpoint.every-s=600", "--json")
    second = json_result(again)
    assert second["losses"] == undisturbed["losses"]
    assert second["miou"] == undisturbed["miou"]
    assert f"{names[-2]}: weights.safetensors: its digest is wrong; going on from {names[-3]}" in again.stderr
    assert checkpoints.names() == [*names[:-2], names[-1]]
    assert second["run_id"] == first["run_id"]
    client = MlflowClient(stack.environment["MLFLOW_TRACKING_URI"])
    for metric in ("train/loss", "train/loss_pixel", "train/grad_norm", "val/miou"):
        points, expected = (
            sorted((point.step, point.value) for point in client.get_metric_history(run["run_id"], metric))
            for run in (second, undisturbed)
        )
        assert points == expected, f"{metric}: points lost, twice or of other steps"


def test_a_run_without_a_better_score_stops_early(scenes: str) -> None:
    options = ("--validation.patience=2", "--optim.lr=1e-12", "--optim.weight-decay=0", "--num-workers=1")
    result = json_result(run_encnet(*TINY, *options, f"--data={scenes}", "--name=early", "--optim.max-steps=99"))
    state = open_checkpoints("s3://encnet", "early").read_state(f"step_{result['steps']:07d}")
    assert (state.ended, state.num_since_best) == ("early", 2)
    assert result["steps"] == state.best_step + 2 * PER_EPOCH < 99


def test_validation_beside_training_finds_the_same(scenes: str, trained_alone: Trained, stack: RunningStack) -> None:
    options = (f"--data={scenes}", f"--optim.max-steps={STEPS}", "--num-workers=1", "--checkpoint.keep-last=9")
    result = json_result(run_encnet(*TINY, *options, "--name=beside", "--validation.where=beside"))
    client = MlflowClient(stack.environment["MLFLOW_TRACKING_URI"])
    _check_scores(client, result, trained_alone.result)
    assert len(client.list_artifacts(result["run_id"], f"images/step_{PER_EPOCH:07d}")) == 2

    checkpoints = open_checkpoints("s3://encnet", "beside")
    checkpoints.store.delete(f"step_{PER_EPOCH:07d}/{SCORES}")  # as if the attempt had not lived to see it
    checkpoints.delete(f"step_{STEPS:07d}")
    assert [one.is_scored_later for one in checkpoints.saved()] == [True]
    again = json_result(run_encnet("train", "--resume", "beside", "--json"))
    assert again["run_id"] == result["run_id"]
    _check_scores(client, again, trained_alone.result)


def _check_scores(client: MlflowClient, result: dict[str, Any], expected: dict[str, Any]) -> None:
    """The scores of a run validated beside training are those of a run validated in the loop, each once."""
    for metric in ("val/miou", "val/pix_acc"):
        points, known = (client.get_metric_history(run["run_id"], metric) for run in (result, expected))
        assert sorted(point.step for point in points) == [PER_EPOCH, STEPS]
        assert {point.step: point.value for point in points} == pytest.approx(
            {point.step: point.value for point in known}, rel=1e-6
        )
    first, last = open_checkpoints("s3://encnet", "beside").saved()
    assert (first.step, last.step) == (PER_EPOCH, STEPS)
    assert not first.is_scored_later
    assert result["miou"] == max(first.miou or 0, last.miou or 0) == expected["miou"]


def _cut_off_after(checkpoints: CheckpointStore, name: str) -> None:
    """Delete the checkpoints after `name`: as if the run had been killed then."""
    for later in checkpoints.names():
        if later > name:
            checkpoints.delete(later)
    assert checkpoints.read_state(name).ended == ""
    assert checkpoints.read_state(name).miou is None


def _break(checkpoints: CheckpointStore, name: str, folder: Path) -> None:
    """Flip a bit of a checkpoint's weights."""
    checkpoints.fetch(name, folder, [WEIGHTS])
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    checkpoints.store.write(f"{name}/{WEIGHTS}", bytes(data))
    assert checkpoints.store.exists(f"{name}/{STATE}")
