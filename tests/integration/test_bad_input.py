"""Bad input on a real stack: exit code 2, one line that names field, value and remedy, nothing half-written."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from encnet import ModelConfig, build_model, save_weights
from infra.local import settings
from pipeline.shards import read_dataset
from pipeline.storage import open_store
from tests.integration.command import run_encnet
from tests.running_stack import RunningStack, stack_variables
from workflows import cli

RECIPE = ("train", "context_scenes_r18")


class Command:
    """`encnet` in this process, which spares each call the seconds of imports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def refusal(self, *arguments: str) -> str:
        """The one line, without 'encnet: ', that a call ends with; checks that it ends as it should."""
        self.monkeypatch.setattr(sys, "argv", ["encnet", *arguments])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        shown = self.capsys.readouterr()
        assert caught.value.code == 2, shown.err
        assert shown.out == ""
        assert shown.err.startswith("encnet: ")
        assert shown.err.endswith("\n")
        assert shown.err.count("\n") == 1, shown.err
        assert not [value for value in secrets() if value in shown.err]
        return shown.err.removeprefix("encnet: ").rstrip("\n")


def secrets() -> list[str]:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip() if "RAY_AUTH_TOKEN_PATH" in os.environ else ""
    return [value for value in (os.environ.get("AWS_SECRET_ACCESS_KEY"), token) if value]


@pytest.fixture
def command(stack: RunningStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_recipes_and_fields(command: Command, scenes: str) -> None:
    data = f"--data={scenes}"
    assert command.refusal("train", "context_scene_r18", data) == (
        "RECIPE: 'context_scene_r18': no such recipe: did you mean 'context_scenes_r18'?"
    )
    # click's own words, which change with its version, but never without the name that was meant
    assert "--optim.max-stepz" in (said := command.refusal(*RECIPE, data, "--optim.max-stepz=3"))
    assert "--optim.max-steps" in said
    assert command.refusal(*RECIPE, data, "--optim.lr=fast").startswith("optim.lr: 'fast': input should be a valid num")
    assert command.refusal(*RECIPE, data, "--num-workers=0") == "workers.num: 0 must be greater than 0"
    assert command.refusal(*RECIPE, data, "--precision=int8") == (
        "precision: 'int8': input should be 'float32', 'bf16' or 'fp16'"
    )
    assert command.refusal("train").startswith("RECIPE: missing: name one of context_scenes_r18, ")
    assert command.refusal("train", "--resume=none").startswith("resume: no run 'none' in s3://encnet/runs: ")
    assert command.refusal("train", "--resume=none", "--name=other").startswith("name: a run that is resumed keeps")


def test_data_sets(command: Command, scenes: str) -> None:
    remedy = (
        "no dataset.json there: write the data set with 'encnet data prepare', index shards that are there with "
        "'encnet data index', or correct the URI"
    )
    assert command.refusal(*RECIPE).startswith("data.uri: empty: name the data set with --data")
    assert command.refusal(*RECIPE, "--data=s3://encnet/nothing") == f"s3://encnet/nothing: {remedy}"
    assert "there is no bucket 'nobucket'" in command.refusal(*RECIPE, "--data=s3://nobucket/x")
    assert command.refusal(*RECIPE, "--data=/no/such/folder") == f"/no/such/folder: {remedy}"
    assert command.refusal(*RECIPE, f"--data={scenes}", "--data.val-split=vall") == (
        f"{scenes}: no split 'vall': did you mean 'val'?"
    )
    assert command.refusal("evaluate", "models:/x@y", f"--data={scenes}", "--split=tset").startswith(
        f"{scenes}: no split 'tset': "
    )
    assert command.refusal("train", "camvid_r18", f"--data={scenes}") == (
        f"model.num_classes: 11, but {scenes} has {len(read_dataset(open_store(scenes)).classes)} classes: "
        "use a recipe for this data set, or --model.num-classes "
        f"{len(read_dataset(open_store(scenes)).classes)}"
    )


def test_a_data_set_without_its_index(command: Command, scenes: str) -> None:
    whole, broken = open_store(scenes), open_store("s3://encnet/tests/no-index")
    broken.write("dataset.json", whole.read("dataset.json"))
    assert command.refusal(*RECIPE, f"--data={broken.uri()}") == (
        f"{broken.uri('train/index.parquet')}: the index is missing: prepare or index the data set again"
    )


def test_wrong_credentials(command: Command, scenes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    for verb in (RECIPE, ("evaluate", "models:/x@y")):
        said = command.refusal(*verb, f"--data={scenes}")
        assert said.startswith(f"{scenes}/dataset.json: access denied (SignatureDoesNotMatch) with AWS_ACCESS_KEY_ID=")
        assert "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL" in said
    assert "access denied" in command.refusal("data", "prepare", "context-scenes", "--dest=s3://encnet/tests/new")


def test_dead_addresses(command: Command, scenes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, not listening: nobody else can be there
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        for name, address in (("MLFLOW_TRACKING_URI", f"http://{place}"), ("RAY_ADDRESS", place)):
            with monkeypatch.context() as patch:
                patch.setenv(name, address)
                expected = f"stack is not up: {name}: nothing listens at {address}: run `encnet stack up`"
                assert command.refusal(*RECIPE, f"--data={scenes}") == expected
                assert command.refusal("evaluate", "models:/x@y", f"--data={scenes}") == expected
        said = command.refusal("submit", f"--address=http://{place}", "--", "train", "x")
        assert said.startswith(f"address: 'http://{place}' does not answer: run 'encnet stack up', or check the addr")


def test_no_stack(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in stack_variables(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path))
    assert not settings.environment_file().exists()
    for verb in ((*RECIPE, "--data=s3://encnet/x"), ("evaluate", "models:/x@y", "--data=s3://encnet/x")):
        assert command.refusal(*verb) == (
            "stack is not up: MLFLOW_TRACKING_URI is not set: run `encnet stack up`, or set MLFLOW_TRACKING_URI to "
            "your own"
        )
    assert command.refusal("submit", "--", "train", "x").startswith("stack is not up: RAY_ADDRESS is not set: run")
    assert "'encnet stack up'" in command.refusal("data", "prepare", "context-scenes", "--dest=s3://encnet/x")
    assert list(tmp_path.iterdir()) == []


def test_models(command: Command, scenes: str, tmp_path: Path) -> None:
    data, empty, other = f"--data={scenes}", tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    config = ModelConfig(num_classes=3, backbone="resnet18", output_stride=32, head_channels=8)
    save_weights(build_model(config), config, other / "weights.safetensors")
    for model, words in (
        ("models:/no-such-model@candidate", "no-such-model"),
        ("models:/no-such-model/7", "no-such-model"),
        ("models:/no-such-model", "write models:/NAME@ALIAS or models:/NAME/VERSION"),
        (str(empty), "holds no weights.safetensors: name a registered model or a folder with one"),
    ):
        said = command.refusal("evaluate", model, data)
        assert said.startswith(f"MODEL: {model!r}: ")
        assert words in said
    assert command.refusal("evaluate", str(other), data) == (
        f"data: 'context-scenes' has {len(read_dataset(open_store(scenes)).classes)} classes, but {other} was trained "
        "for 3: evaluate it on its own data set"
    )
    assert command.refusal("evaluate", str(other), data, "--scales=0.5,big") == (
        "scales: '0.5,big': write numbers with commas between, e.g. 0.75,1,1.25"
    )
    assert command.refusal("evaluate", str(other), data, "--num-workers=0").startswith("num_workers: 0")


def test_more_workers_than_the_cluster_holds(scenes: str) -> None:
    done = run_encnet(*RECIPE, f"--data={scenes}", "--num-workers=1000", "--name=too-many")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("encnet: workers.num: 1000 workers need 1000 CPUs, but the cluster has ")
    assert line.endswith(": ask for fewer with --num-workers")
    assert open_store("s3://encnet/runs").list("too-many/") == []


def _camvid(root: Path, label: np.ndarray, image: bytes) -> str:
    for split in ("train", "val"):
        for kind, data in (("images", image), ("annotations", cv2.imencode(".png", label)[1].tobytes())):
            folder = root / kind / split
            folder.mkdir(parents=True)
            (folder / "a.png").write_bytes(data)
    return str(root)


@pytest.mark.parametrize("fault", ["label", "image"])
def test_sources_that_can_not_be_stored(command: Command, tmp_path: Path, fault: str) -> None:
    label = np.full((32, 32), 99 if fault == "label" else 3, np.uint8)
    image = b"no picture" if fault == "image" else cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
    source, dest = _camvid(tmp_path / "source", label, image), tmp_path / "dest"
    said = command.refusal("data", "prepare", "camvid", f"--source={source}", f"--dest={dest}")
    assert "train/a.png" in said
    assert ("99" in said) == (fault == "label")
    assert not (dest / "dataset.json").exists()
    assert "no dataset.json there" in command.refusal(*RECIPE, f"--data={dest}")


def test_a_damaged_settings_file(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path))
    settings.environment_file().parent.mkdir(parents=True)
    settings.environment_file().write_text(json.dumps({"AWS": 1}))
    assert command.refusal(*RECIPE).startswith(f"{settings.environment_file()}:1: not a line `export NAME='VALUE'`")
