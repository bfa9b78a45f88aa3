"""What a run that is resumed takes over, and which options would make it another run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from encnet import ModelConfig
from pipeline.config import RunConfig, WorkersConfig
from pipeline.errors import InputError
from pipeline.resume import is_used, resumed_config, store_config, stored_config


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        recipe="made_up",
        name="mine",
        storage=str(tmp_path),
        model=ModelConfig(num_classes=4, backbone="resnet18"),
        workers=WorkersConfig(num=4, least=1),
    )


def test_a_run_s_configuration_is_found_by_its_name(config: RunConfig) -> None:
    assert not is_used(config.storage, "mine")
    store_config(config)
    assert is_used(config.storage, "mine")
    assert stored_config(config.storage, "mine") == config


def test_a_run_that_is_not_there(config: RunConfig) -> None:
    with pytest.raises(InputError) as caught:
        stored_config(config.storage, "mine")
    assert str(caught.value) == f"resume: no run 'mine' in {config.storage}/runs: no run has been started there"
    store_config(config)
    with pytest.raises(InputError) as caught:
        stored_config(config.storage, "mime")
    assert str(caught.value) == f"resume: no run 'mime' in {config.storage}/runs: did you mean 'mine'?"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("workers.num", "2"),
        ("workers.least", "0"),
        ("workers.max_failures", "0"),
        ("data.threads", "7"),
        ("data.cache_dir", "/fast"),
        ("data.uri", "s3://moved/there"),
        ("checkpoint.every_s", "5"),
        ("optim.lr", "0.01"),  # as it was
    ],
)
def test_what_may_differ_is_taken(config: RunConfig, path: str, value: str) -> None:
    resumed = resumed_config(config, {path: value})
    assert resumed == config.override({path: value})
    assert replace(resumed, workers=config.workers, data=config.data, checkpoint=config.checkpoint) == config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optim.lr", "0.5"),
        ("optim.batch_size", "8"),
        ("seed", "7"),
        ("precision", "bf16"),
        ("data.window", "3"),
        ("data.block_bytes", "77"),
        ("model.num_classes", "5"),
        ("augment.crop_size", "64,64"),
        ("validation.every_epochs", "9"),
        ("start_weights", "models:/x/1"),
        ("experiment", "another"),
    ],
)
def test_what_would_change_the_result_is_refused_by_name(config: RunConfig, path: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        resumed_config(config, {path: value})
    assert str(caught.value).startswith(f"{path}: ")
    assert "but the run 'mine' was started with" in str(caught.value)
    assert str(caught.value).endswith("leave the option out to go on with it, or start another run with --name")


def test_an_unknown_field_is_still_one(config: RunConfig) -> None:
    with pytest.raises(InputError, match=r"optim\.lrr: no such field: did you mean 'optim\.lr'\?"):
        resumed_config(config, {"optim.lrr": "1"})
