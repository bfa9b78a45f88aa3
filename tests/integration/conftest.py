"""What the integration tests share: one small data set on S3, and tiny runs on it, each trained once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Page

from tests.integration.browser import CHROMIUM, open_page
from tests.integration.command import json_result, run_encnet
from tests.integration.lone_mlflow import LoneMlflow, Proxy, lone_mlflow, proxy
from tests.running_stack import RunningStack

NUM_TRAIN, NUM_VAL = 16, 6
BATCH_SIZE = 4
STEPS = 8
LEARNING_RATE = 0.002
TINY = (
    "train",
    "context_scenes_r18",
    "--augment.crop-size=64,64",
    "--model.output-stride=32",
    "--model.input-scale=1",  # at half size BatchNorm would have four values a channel, and magnify rounding
    "--model.lateral=false",
    "--optim.kind=sgd",  # adamw divides by tiny gradients in its first steps, and so magnifies rounding
    "--optim.warmup-steps=0",
    "--model.head-channels=32",
    f"--optim.batch-size={BATCH_SIZE}",
    f"--optim.lr={LEARNING_RATE}",
    "--validation.every-epochs=1",
    "--validation.pictures=2",
    "--json",
)
"""A run of the real recipe, small enough to take seconds."""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of a browser that reaches this machine only."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there: apt-get install chromium")
    with open_page() as page:
        yield page


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go: $ENCNET_SCREENSHOTS, or a temporary folder."""
    folder = Path(os.environ.get("ENCNET_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneMlflow]:
    """An MLflow server that a test may stop and start."""
    with lone_mlflow(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture
def way(mlflow_server: LoneMlflow, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way to that server, as the code under test goes it."""
    with proxy(mlflow_server.port) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        yield server


@pytest.fixture
def mlflow_client(mlflow_server: LoneMlflow) -> MlflowClient:
    """The direct way to that server, to look at what came."""
    return MlflowClient(mlflow_server.uri)


@pytest.fixture
def run_id(mlflow_client: MlflowClient) -> str:
    """A run on that server."""
    return str(mlflow_client.create_run("0").info.run_id)


@dataclass(frozen=True)
class Trained:
    """A finished run: what the command said, and the JSON object it ended with."""

    process: subprocess.CompletedProcess[str]
    result: dict[str, Any]


@pytest.fixture(scope="session")
def scenes(stack: RunningStack) -> str:
    """The URI of a small ContextScenes on the stack's S3."""
    uri = "s3://encnet/tests/scenes"
    sizes = ("--train-samples", str(NUM_TRAIN), "--val-samples", str(NUM_VAL))
    assert json_result(run_encnet("data", "prepare", "context-scenes", "--dest", uri, *sizes, "--json"))["prepared"]
    return uri


@pytest.fixture(scope="session")
def trained(scenes: str) -> Trained:
    """A run on two workers."""
    return _train(scenes, "tiny", num_workers=2)


@pytest.fixture(scope="session")
def trained_alone(scenes: str) -> Trained:
    """The same run on one worker."""
    return _train(scenes, "tiny-alone", num_workers=1)


def _train(data: str, name: str, num_workers: int) -> Trained:
    done = run_encnet(
        *TINY,
        f"--data={data}",
        f"--name={name}",
        f"--registered-model=encnet-{name}",
        f"--optim.max-steps={STEPS}",
        f"--num-workers={num_workers}",
    )
    return Trained(process=done, result=json_result(done))
