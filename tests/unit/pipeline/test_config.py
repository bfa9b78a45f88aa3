"""The configuration: overrides from the command line, what is refused and how, and the way back from plain values."""

from __future__ import annotations

import dataclasses
import json

import pytest

from encnet import ModelConfig
from pipeline.config import OptimConfig, RunConfig, WorkersConfig, field_help, flat
from pipeline.errors import InputError


def _config() -> RunConfig:
    return RunConfig(model=ModelConfig(num_classes=4, backbone="resnet18"))


def _refusal(changes: dict[str, str]) -> str:
    with pytest.raises(InputError) as caught:
        _config().override(changes)
    return str(caught.value)


def test_texts_become_what_the_fields_hold() -> None:
    changed = _config().override(
        {
            "optim.max_steps": "30",
            "optim.lr": "0.5",
            "model.output_stride": "32",
            "model.lateral": "true",
            "augment.crop_size": "64,96",
            "augment.flip": "no",
            "data.uri": "s3://bucket/7",
            "name": "7",
            "precision": "bf16",
        }
    )
    assert (changed.optim.max_steps, changed.optim.lr) == (30, 0.5)
    assert (changed.model.output_stride, changed.model.lateral) == (32, True)
    assert (changed.augment.crop_size, changed.augment.flip) == ((64, 96), False)
    assert (changed.data.uri, changed.name, changed.precision) == ("s3://bucket/7", "7", "bf16")
    untouched = changed.override({"optim.max_steps": 0, "optim.lr": 0.01})
    assert untouched.optim == OptimConfig()
    assert _config().optim.max_steps == 0


def test_the_resolved_configuration_can_be_loaded_back() -> None:
    config = _config().override({"augment.crop_size": "64,96", "optim.lr": "0.1", "model.aux": "false"})
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("optim.max_step", "optim.max_steps"),
        ("model.backbon", "model.backbone"),
        ("optim.max_steps.x", "optim.max_steps"),
        ("modle.arch", "model.arch"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest(path: str, nearest: str) -> None:
    assert _refusal({path: "1"}) == f"{path}: no such field: did you mean {nearest!r}?"


def test_a_section_is_no_field() -> None:
    assert _refusal({"optim": "1"}).startswith("optim: no such field: ")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optim.lr", "fast", "optim.lr: 'fast': input should be a valid number, unable to parse string as a number"),
        ("optim.lr", "0", "optim.lr: 0.0 must be greater than 0"),
        ("optim.max_steps", "-1", "optim.max_steps: -1 must be 0 or more"),
        ("optim.warmup_steps", "-2", "optim.warmup_steps: -2 must be 0 or more"),
        ("loss.class_weight_power", "-1", "loss.class_weight_power: -1.0 must be 0 or more, e.g. 0.5"),
        ("optim.micro_batch", "3", "optim.micro_batch: 3 does not divide batch_size 16"),
        ("workers.num", "0", "workers.num: 0 must be greater than 0"),
        ("data.threads", "0", "data.threads: 0 must be greater than 0"),
        ("data.memory_bytes", "-1", "data.memory_bytes: -1 must be 0 or more"),
        ("data.max_bad_samples", "-1", "data.max_bad_samples: -1 must be 0 or more"),
        ("validation.every_epochs", "0", "validation.every_epochs: 0 must be greater than 0"),
        ("validation.patience", "-1", "validation.patience: -1 must be 0 or more"),
        ("checkpoint.every_s", "0", "checkpoint.every_s: 0.0 must be greater than 0"),
        ("checkpoint.keep_last", "0", "checkpoint.keep_last: 0 must be greater than 0"),
        ("checkpoint.keep_best", "-1", "checkpoint.keep_best: -1 must be 0 or more"),
        ("precision", "int8", "precision: 'int8': input should be 'float32', 'bf16' or 'fp16'"),
        ("model.output_stride", "7", "model.output_stride: 7: input should be 8, 16 or 32"),
        ("model.num_classes", "0", "model.num_classes: 0 is too small: give at least 1"),
        (
            "augment.crop_size",
            "8,8",
            "augment.crop_size: (8, 8) is out of range: give a height and width of at least 32",
        ),
        ("augment.crop_size", "64", "augment.crop_size.1: missing: give a value"),
        (
            "augment.crop_size",
            "1,2,3",
            "augment.crop_size: ['1', '2', '3']: tuple should have at most 2 items after validation, not 3",
        ),
        ("augment.flip", "maybe", "augment.flip: 'maybe': input should be a valid boolean, unable to interpret input"),
    ],
)
def test_a_bad_value_is_named_with_its_field_and_the_remedy(path: str, value: str, message: str) -> None:
    assert _refusal({path: value}) == message


def test_all_faults_are_told_on_one_line() -> None:
    message = _refusal({"optim.lr": "fast", "workers.num": "0"})
    assert "optim.lr: 'fast'" in message
    assert "workers.num: 0" in message
    assert "\n" not in message


def test_an_unknown_key_of_a_stored_configuration_is_refused() -> None:
    values = _config().to_dict()
    values["optim"]["lrr"] = 1
    with pytest.raises(InputError, match=r"^optim\.lrr: no such field: did you mean 'optim\.lr'\?$"):
        RunConfig.from_dict(values)


def test_every_field_is_explained() -> None:
    texts = field_help()
    assert set(texts) == set(flat(_config().to_dict()))
    assert [name for name, text in texts.items() if not text.strip()] == []
    assert texts["precision"].startswith("[float32 | bf16 | fp16] ")


def test_nested_values_by_dotted_name() -> None:
    assert flat({"a": 1, "b": {"c": [2], "d": {"e": None}}, "f": {}}) == {"a": 1, "b.c": [2], "b.d.e": None}


@pytest.mark.parametrize(("num", "least", "count"), [(4, 0, "4"), (4, 4, "4"), (4, 1, "1 to 4"), (1, 0, "1")])
def test_the_number_of_workers_in_words(num: int, least: int, count: str) -> None:
    assert WorkersConfig(num=num, least=least).count == count


def test_a_micro_batch_is_the_group() -> None:
    assert OptimConfig(batch_size=16).group_size == 16
    assert OptimConfig(batch_size=16, micro_batch=4).group_size == 4


def test_a_configuration_can_not_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _config().seed = 3  # type: ignore[misc]
