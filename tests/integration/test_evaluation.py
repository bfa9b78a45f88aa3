"""Evaluations on the real stack: recorded and found again, compared, reported, and gone on with after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
from mlflow import MlflowClient

from infra.local import stack as local_stack
from pipeline.bootstrap import mean_iou
from pipeline.evaluate import Protocol, ensure_measured
from pipeline.evaluation_plan import evaluation_key
from pipeline.evaluation_record import KEY_TAG, find_record
from pipeline.registry import digest_weights, resolve_model
from pipeline.shards import read_dataset, read_index
from pipeline.storage import open_store
from tests.integration.command import ENCNET, json_result, run_encnet
from tests.integration.conftest import NUM_VAL, Trained
from tests.integration.running import wait_until
from tests.running_stack import RunningStack

MODEL = "models:/encnet-tiny@candidate"
OTHER = "models:/encnet-tiny-alone@candidate"
NUM_MANY = 32


@pytest.fixture
def client(stack: RunningStack) -> MlflowClient:
    uri = stack.environment["MLFLOW_TRACKING_URI"]
    mlflow.set_tracking_uri(uri)  # tests that have a server of their own leave it there
    return MlflowClient(uri)


@pytest.fixture(scope="module")
def evaluated(trained: Trained, scenes: str) -> dict[str, Any]:
    return json_result(run_encnet("evaluate", MODEL, f"--data={scenes}", "--json"))


@pytest.fixture(scope="module")
def many(stack: RunningStack) -> str:
    """The URI of a data set that takes some seconds to evaluate."""
    uri = "s3://encnet/tests/many-scenes"
    sizes = ("--train-samples=1", f"--val-samples={NUM_MANY}")
    json_result(run_encnet("data", "prepare", "context-scenes", "--dest", uri, *sizes, "--json"))
    return uri


def artifact(client: MlflowClient, run_id: str, path: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_bytes()


def test_the_run_holds_scores_record_and_report(
    evaluated: dict[str, Any], client: MlflowClient, scenes: str, trained: Trained
) -> None:
    assert evaluated["model_uri"] == trained.result["model_uri"]
    assert evaluated["checks"] == {"class count": "", "each sample once": "", "probabilities are numbers": ""}
    assert evaluated["latency_ms"] > 0
    assert 0 < evaluated["mean_boundary_f"] < 1
    assert abs(evaluated["overconfidence"]) <= evaluated["ece"] < 1
    run = client.get_run(evaluated["run_id"])
    for name in ("miou", "pix_acc", "ece", "overconfidence", "latency_ms", "parameters"):
        assert run.data.metrics[f"eval/val/{name}"] == pytest.approx(evaluated[name])
    assert run.data.metrics["eval/val/boundary_f"] == pytest.approx(evaluated["mean_boundary_f"])
    assert (run.data.tags["kind"], run.data.tags["protocol"]) == ("evaluation", "val")
    assert run.data.tags["data set digest"] == read_dataset(open_store(scenes)).digest
    assert re.fullmatch(r"[0-9a-f]{64}", run.data.tags[KEY_TAG])
    html = artifact(client, evaluated["run_id"], "report/index.html").decode()
    assert f"<b>{100 * evaluated['miou']:.2f} %</b>" in html
    keys = set(read_index(open_store(scenes), "val").keys)
    shown = re.findall(r"<figcaption>(\S+): mIoU [\d.]+ %</figcaption>", html)
    assert len(shown) == NUM_VAL
    assert set(shown) <= keys
    version = client.get_model_version_by_alias("encnet-tiny", "candidate")
    assert version.tags["evaluation run"] == evaluated["run_id"]
    assert float(version.tags["eval/val/ece"]) == pytest.approx(evaluated["ece"], abs=1e-6)
    assert open_store("s3://encnet").list("evaluations/") == [], "nothing is kept of a finished one"


def test_it_is_found_again_by_what_it_is_of(evaluated: dict[str, Any], client: MlflowClient, scenes: str) -> None:
    digest = read_dataset(open_store(scenes)).digest
    with resolve_model(MODEL) as model:
        weights = digest_weights(model.weights)
    assert find_record(evaluation_key(weights, digest, Protocol(data=scenes, flip=True))) is None
    assert find_record(evaluation_key(weights, "0" * 64, Protocol(data=scenes))) is None
    found = ensure_measured(MODEL, Protocol(data=scenes, num_workers=7))
    assert (found.run_id, found.run_url) == (evaluated["run_id"], evaluated["run_url"])
    assert found.miou == pytest.approx(evaluated["miou"])
    assert found.measured.counts.shape[0] == NUM_VAL
    assert float(mean_iou(found.measured.counts.sum(0))) == pytest.approx(evaluated["miou"])
    assert found.measured.data_digest == digest
    newer = json_result(run_encnet("evaluate", MODEL, f"--data={scenes}", "--num-workers=1", "--json"))
    assert newer["run_id"] != evaluated["run_id"], "asked for by itself it is made again"
    assert newer["miou"] == pytest.approx(evaluated["miou"], abs=1e-3)
    assert ensure_measured(MODEL, Protocol(data=scenes)).run_id == newer["run_id"]
    client.set_terminated(newer["run_id"], "FAILED")  # as if it had broken off while it was logged
    assert ensure_measured(MODEL, Protocol(data=scenes)).run_id == evaluated["run_id"]


def test_a_version_shows_what_was_measured_of_its_weights_elsewhere(
    trained: Trained, client: MlflowClient, scenes: str, tmp_path: Path
) -> None:
    with resolve_model(MODEL) as model:
        (tmp_path / "weights.safetensors").write_bytes(model.weights.read_bytes())
    protocol = Protocol(data=scenes, split="train")
    loose = json_result(run_encnet("evaluate", str(tmp_path), f"--data={scenes}", "--split=train", "--json"))
    before = client.get_model_version_by_alias("encnet-tiny", "candidate").tags
    assert "eval/train/miou" not in before
    assert ensure_measured(MODEL, protocol).run_id == loose["run_id"]
    tags = client.get_model_version_by_alias("encnet-tiny", "candidate").tags
    assert float(tags["eval/train/miou"]) == pytest.approx(loose["miou"], abs=1e-6)
    assert tags["evaluation run"] == loose["run_id"]


def test_two_models_are_compared_with_an_interval(
    evaluated: dict[str, Any], trained_alone: Trained, client: MlflowClient, scenes: str
) -> None:
    command = ("evaluate", MODEL, f"--data={scenes}", f"--against={OTHER}", "--json")
    done = run_encnet(*command)
    result = json_result(done)
    other, difference = result["against"], result["against"]["difference"]
    assert result["run_id"] == evaluated["run_id"], "its scores are known already"
    assert other["model_uri"] == trained_alone.result["model_uri"]
    assert difference["value"] == pytest.approx(result["miou"] - other["miou"], abs=1e-9)
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert (difference["level"], difference["num_images"]) == (0.95, NUM_VAL)
    told = f"difference  {100 * difference['value']:+.2f} points of mIoU (95 %: {100 * difference['low']:+.2f} to "
    assert told in done.stderr
    html = artifact(client, result["run_id"], "report/index.html").decode()
    assert f"{100 * difference['value']:+.2f} points of mIoU" in html
    assert f"over {other['model_uri']}</b>" in html
    again = json_result(run_encnet(*command))
    assert again == result


def test_a_split_without_labels_or_another_model_is_refused(many: str, tmp_path: Path, trained: Trained) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    told = json.loads(open_store(many).read("dataset.json"))
    told["splits"]["val"]["class_pixels"] = [0] * len(told["classes"])
    (folder / "dataset.json").write_text(json.dumps(told))
    (folder / "val").mkdir()
    (folder / "val/index.parquet").write_bytes(open_store(many).read("val/index.parquet"))
    done = run_encnet("evaluate", MODEL, f"--data={folder}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"encnet: split: 'val' of {folder} has no labelled pixel: choose another --split"
    )
    refused = run_encnet("evaluate", MODEL, f"--data={many}", "--against=models:/encnet-tiny@nobody")
    assert refused.returncode == 2
    assert "encnet: MODEL: 'models:/encnet-tiny@nobody': " in refused.stderr


@pytest.fixture(scope="module")
def slow(many: str, trained: Trained) -> tuple[str, ...]:
    """A command that takes some seconds."""
    return ("evaluate", MODEL, f"--data={many}", "--scales=0.5,1,2,3", "--flip", "--json")


@pytest.fixture(scope="module")
def undisturbed(slow: tuple[str, ...]) -> dict[str, Any]:
    return json_result(run_encnet(*slow, "--experiment=undisturbed"))


def _kept() -> list[str]:
    return open_store("s3://encnet").list("evaluations/")


@pytest.fixture
def begun(slow: tuple[str, ...], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An evaluation that has finished some of its chunks."""
    with (tmp_path / "stdout").open("wb") as stdout, (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen([*ENCNET, *slow], env=os.environ, stdout=stdout, stderr=stderr)
    try:
        wait_until(lambda: len(_kept()) >= 2 or process.poll() is not None, 120, "two chunks")
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -signal.SIGKILL), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)],
)
def test_what_was_ended_in_the_middle_is_gone_on_with(
    number: signal.Signals,
    code: int,
    undisturbed: dict[str, Any],
    slow: tuple[str, ...],
    begun: subprocess.Popen[bytes],
) -> None:
    begun.send_signal(number)
    assert begun.wait(60) == code, "it had finished before it was ended"
    num_kept = len(_kept())
    assert 2 <= num_kept < 16
    done = run_encnet(*slow, "--num-workers=1")
    found = re.search(r"^(\d+) of 32 images were counted before it was interrupted$", done.stderr, re.MULTILINE)
    assert found is not None, done.stderr
    assert int(found[1]) == 2 * num_kept
    assert _same_scores(json_result(done), undisturbed)
    assert _kept() == []


def test_a_worker_that_is_killed_costs_no_sample(
    undisturbed: dict[str, Any], begun: subprocess.Popen[bytes], stack: RunningStack, tmp_path: Path
) -> None:
    head = next(part.pid for part in local_stack.status(stack.home) if part.name == "ray")
    workers = [
        child
        for child in psutil.Process(head).children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "_work_on_node" in " ".join(child.cmdline())
    ]
    assert workers
    workers[0].kill()
    assert begun.wait(200) == 0, (tmp_path / "stderr").read_text()
    done = subprocess.CompletedProcess([], 0, (tmp_path / "stdout").read_text(), "")
    assert _same_scores(json_result(done), undisturbed)


def _same_scores(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    assert found["num_images"] == expected["num_images"] == NUM_MANY
    for name in ("miou", "pix_acc", "mean_boundary_f", "ece"):
        assert found[name] == pytest.approx(expected[name], abs=1e-4), name
    pairs = [(found["iou"][name], iou) for name, iou in expected["iou"].items()]
    mine, its = np.array([pair for pair in pairs if None not in pair]).T
    return bool(np.allclose(mine, its, atol=1e-3))
