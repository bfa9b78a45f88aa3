"""What is checked and filled in before anything starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from encnet import ModelConfig
from pipeline import launch
from pipeline.checkpoint import EMA, WEIGHTS, write_snapshot
from pipeline.checkpoint_store import open_checkpoints
from pipeline.config import DataConfig, RunConfig
from pipeline.errors import InputError, TrainingError
from tests.unit.pipeline.made_up_data import write_made_up
from tests.unit.pipeline.small_training import tiny_snapshot


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    write_made_up(tmp_path / "data", num_train=6, num_val=3)
    return RunConfig(
        recipe="made_up",
        storage=str(tmp_path / "storage"),
        data=DataConfig(uri=str(tmp_path / "data")),
        model=ModelConfig(num_classes=4, backbone="resnet18"),
    )


def _refusal(config: RunConfig) -> str:
    with pytest.raises(InputError) as caught:
        launch.resolve(config)
    return str(caught.value)


def test_what_depends_on_the_surroundings_is_filled_in(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, dataset = launch.resolve(config)
    assert dataset.name == "made-up"
    assert resolved.registered_model == "encnet-made-up"
    assert resolved.name.startswith("made_up-")
    assert resolved.storage == config.storage
    monkeypatch.setenv("ENCNET_STORAGE", "s3://elsewhere")
    assert launch.resolve(replace(config, storage=""))[0].storage == "s3://elsewhere"
    named = replace(config, name="mine", registered_model="ours")
    assert launch.resolve(named)[0] == named


def test_what_can_not_be_trained_on_is_refused(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENCNET_STORAGE", raising=False)
    uri = config.data.uri
    assert _refusal(replace(config, data=DataConfig())).startswith("data.uri: empty: name the data set with --data")
    assert f"{uri}/none: no dataset.json there" in _refusal(replace(config, data=DataConfig(uri=f"{uri}/none")))
    assert _refusal(replace(config, data=DataConfig(uri=uri, val_split="vall"))).endswith(
        "no split 'vall': did you mean 'val'?"
    )
    assert _refusal(replace(config, model=ModelConfig(num_classes=11, backbone="resnet18"))) == (
        f"model.num_classes: 11, but {uri} has 4 classes: use a recipe for this data set, or --model.num-classes 4"
    )
    assert _refusal(replace(config, storage="")).startswith("storage: empty: run 'encnet stack up', or give --storage")
    (Path(uri) / "val" / "index.parquet").unlink()
    assert _refusal(config).endswith("val/index.parquet: the index is missing: prepare or index the data set again")


def test_the_best_weights_that_are_whole_are_registered(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(str(tmp_path / "storage"), "mine")
    for step, miou in ((2, 0.3), (4, 0.5), (6, None)):
        snapshot = tiny_snapshot(step, miou)
        local = tmp_path / snapshot.state.name
        local.mkdir()
        write_snapshot(local, replace(snapshot, ema={"a": snapshot.weights["a"] + 1}))
        checkpoints.save(local, snapshot.state.name)
    folder = tmp_path / "fetched"
    for best in ("step_0000004", "step_0000002"):
        folder.mkdir(exist_ok=True)
        assert launch.fetch_best(checkpoints, folder).name == best
        assert (folder / WEIGHTS).read_bytes() == (tmp_path / best / EMA).read_bytes()
        Path(checkpoints.uri(best), EMA).write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="no checkpoint there was validated and is whole"):
        launch.fetch_best(checkpoints, folder)
