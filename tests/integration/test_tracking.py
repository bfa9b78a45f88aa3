"""Tracking and registration against a real MLflow server."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

import encnet
from pipeline import tracking
from pipeline.config import DataConfig, RunConfig
from pipeline.model_card import ModelCard
from pipeline.registration import register_model
from pipeline.registry import CANDIDATE
from pipeline.shards import DatasetInfo, SplitInfo
from pipeline.timeline import Event
from tests.integration.lone_mlflow import Proxy

SPLIT = SplitInfo(samples=8, shards=1, bytes=1000, digest="ab" * 32, class_pixels=(10, 20, 30))
DATASET = DatasetInfo(
    name="made-up",
    version="1",
    classes=("road", "sky", "car"),
    palette=((0, 0, 0), (9, 9, 9), (99, 99, 99)),
    splits={"train": SPLIT, "val": SPLIT},
)
CONFIG = RunConfig(
    name="first", data=DataConfig(uri="/data"), model=encnet.ModelConfig(num_classes=3, backbone="resnet18")
)


def text_of(client: MlflowClient, run_id: str, path: str, folder: Path) -> str:
    return Path(client.download_artifacts(run_id, path, str(folder))).read_text()


def test_a_run_is_found_again_by_its_name(way: Proxy, mlflow_client: MlflowClient) -> None:
    first = tracking.open_run(tracking.connect(), "found", "mine", {"recipe": "r"})
    mlflow_client.set_terminated(first, "FAILED")
    assert tracking.open_run(tracking.connect(), "found", "mine", {}) == first
    assert tracking.open_run(tracking.connect(), "found", "other", {}) != first
    run = mlflow_client.get_run(first)
    assert (run.info.status, run.info.run_name, run.data.tags["recipe"]) == ("RUNNING", "mine", "r")


def test_what_changed_on_resume_is_noted_and_not_lied_about(
    way: Proxy, mlflow_client: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    def resume(workers: int) -> tuple[list[str], dict[str, str]]:
        values = {"workers": {"num": workers}, "seed": 0}
        changed = tracking.Tracker(run_id).log_config(values, {"commit": "a" if workers == 2 else "b", "seed": "a tag"})
        return changed, mlflow_client.get_run(run_id).data.tags

    changed, tags = resume(2)
    assert changed == []
    assert tracking.CHANGED not in tags
    changed, tags = resume(4)
    assert changed == ["commit: a -> b", "workers.num: 2 -> 4"]
    assert (tags[tracking.CHANGED], tags["commit"]) == ("commit: a -> b; workers.num: 2 -> 4", "a")
    assert mlflow_client.get_run(run_id).data.params == {"workers.num": "2", "seed": "0"}
    assert json.loads(text_of(mlflow_client, run_id, "config.json", tmp_path))["workers"] == {"num": 4}
    changed, tags = resume(2)
    assert tags[tracking.CHANGED] == "nothing"


def test_the_timeline_is_a_table_without_repetitions(way: Proxy, run_id: str) -> None:
    events = [
        Event(at=0.0, kind="started", step=0, workers=2),
        Event(at=61.5, kind="failed", detail="worker 1: it broke"),
    ]
    tracking.log_events(run_id, events[:1])
    tracking.log_events(run_id, events)
    tracking.Tracker(run_id).log_table({"class": ["road", "sky"], "iou": [0.5, float("nan")]}, "per_class.json")
    table = mlflow.load_table(tracking.EVENTS, run_ids=[run_id])
    assert table.to_dict("list") == {
        "time (UTC)": ["1970-01-01 00:00:00", "1970-01-01 00:01:01"],
        "step": [0, ""],
        "event": ["started", "failed"],
        "workers": [2, ""],
        "detail": ["", "worker 1: it broke"],
    }
    assert mlflow.load_table("per_class.json", run_ids=[run_id])["iou"].isna().tolist() == [False, True]


def test_an_action_is_tried_until_mlflow_is_back(way: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    port, way.port = way.port, 9
    back = threading.Timer(1.5, lambda: setattr(way, "port", port))
    back.start()
    found = tracking.patiently(lambda: tracking.connect().get_experiment("0").name, "looking", 60, pause_s=0.2)
    back.join()
    assert found == "Default"
    (told,) = [record.message for record in caplog.records]
    assert told.startswith(f"looking: MLFLOW_TRACKING_URI: '{way.uri}' does not answer: ")
    assert told.endswith(": trying again for 60 s")
    way.port = 9
    with pytest.raises(tracking.NoServer):
        tracking.patiently(tracking.connect, "looking", 0.5, pause_s=0.2)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    encnet.save_weights(encnet.build_model(CONFIG.model), CONFIG.model, path)
    return path


def card(run_id: str, step: int) -> ModelCard:
    iou = {"road": 0.9, "sky": 0.05, "car": float("nan")}
    return ModelCard(
        config=CONFIG, dataset=DATASET, run_id=run_id, commit="f" * 40, step=step, steps=30, miou=0.475, iou=iou
    )


def register(weights: Path, run_id: str, step: int, name: str = "made-up") -> str:
    example = np.zeros((32, 48, 3), np.uint8)
    tags = {"recipe": "custom", "run": "first"}
    return register_model(name, weights, card(run_id, step), example=example, tags=tags, alias=CANDIDATE)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # MLflow's own, of its own types
def test_registration_goes_on_where_it_broke_off(
    way: Proxy,
    mlflow_client: MlflowClient,
    run_id: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    first = register(weights, run_id, step=10)
    num_requests, num_broken, version = way.num_requests, 0, ""
    # Once while the model is stored, once when it just has been, and then every few requests.
    for num_left in (20, num_requests - 8, *range(3, 40, 3)):
        way.num_left = num_left
        try:
            version = register(weights, run_id, step=20)
            break
        except (tracking.Unreachable, tracking.NoServer):
            num_broken += 1
    assert num_broken >= 5
    way.num_left = None
    assert register(weights, run_id, step=20) == version
    assert register(weights, run_id, step=10) == first
    versions = {str(one.version): one for one in mlflow_client.search_model_versions("name='made-up'")}
    assert sorted(versions) == sorted([first, version])
    only = versions[version]
    assert only.run_id == run_id
    assert only.tags["val/best_miou"] == "0.475000"
    assert only.tags["run"] == "first"
    alias = mlflow_client.get_model_version_by_alias("made-up", CANDIDATE)
    assert str(alias.version) == version, "not taken back to the first, which had been registered whole"
    assert only.description == text_of(mlflow_client, run_id, "model_card.md", tmp_path)
    assert only.description.startswith(f"# made-up, version {version}\n")
    loaded: Any = mlflow.pyfunc.load_model(f"models:/made-up/{version}")
    assert loaded.predict(np.zeros((1, 32, 48, 3), np.uint8)).shape == (1, 32, 48)
