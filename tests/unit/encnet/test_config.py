"""ModelConfig: choices checked when it is built, presets, and the way to JSON and back."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any, cast

import pytest
from pydantic import TypeAdapter, ValidationError

from encnet import ModelConfig
from encnet.config import PRESETS, Preset


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "resnet51"}, r"backbone: 'resnet51' is not a choice: did you mean 'resnet50'\?"),
        ({"arch": "psp"}, "arch: 'psp' is not a choice: choose from encnet, fcn"),
        ({"output_stride": 4}, "output_stride: 4 is not a choice: choose from 8, 16, 32"),
        ({"num_classes": 0}, "num_classes: 0 is too small: give at least 1"),
        ({"num_codes": 3.0}, "num_codes: 3.0 has the wrong type: give a whole number"),
        ({"head_channels": True}, "head_channels: True has the wrong type: give a whole number"),
        ({"lateral": "yes"}, "lateral: 'yes' has the wrong type: give true or false"),
        ({"dropout": 1.0}, "dropout: 1.0 is not a probability below 1"),
        ({"dropout": "0.1"}, "dropout: '0.1' is not a number"),
        ({"dropout": float("nan")}, "dropout: nan is not a probability below 1"),
    ],
)
def test_bad_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{"num_classes": 5, **values})


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"backbones: not a field of ModelConfig: did you mean 'backbone'\?"):
        ModelConfig.preset("mmseg", backbones="resnet18")
    with pytest.raises(ValueError, match=r"preset: 'mmsec' is unknown: did you mean 'mmseg'\?"):
        ModelConfig.preset(cast(Preset, "mmsec"))
    with pytest.raises(ValueError, match="num_classes: missing"):
        ModelConfig.from_dict({"arch": "fcn"})


def test_presets_differ_as_documented() -> None:
    configs = {name: ModelConfig.preset(cast(Preset, name), num_classes=19) for name in PRESETS}
    assert [c.stem for c in configs.values()] == ["plain", "deep128", "deep64"]
    assert [c.align_corners for c in configs.values()] == [True, True, False]
    assert [c.cem_residual for c in configs.values()] == [False, True, True]
    assert [c.aux_context for c in configs.values()] == [True, False, False]
    assert {c.num_classes for c in configs.values()} == {19}


@pytest.mark.parametrize("name", list(PRESETS))
def test_json_and_back(name: Preset) -> None:
    config = ModelConfig.preset(name, dropout=0.25)
    again = json.loads(json.dumps(asdict(config)))
    assert ModelConfig(**again) == config
    assert ModelConfig.from_dict(again) == config


def test_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ModelConfig(num_classes=5).num_classes = 6  # type: ignore[misc]


def test_pydantic_reads_it_with_its_field_docs() -> None:
    adapter = TypeAdapter(ModelConfig)
    assert adapter.validate_python({"num_classes": 5, "backbone": "resnet18"}) == ModelConfig(
        num_classes=5, backbone="resnet18"
    )
    with pytest.raises(ValidationError, match="resnet"):
        adapter.validate_python({"num_classes": 5, "resnet": 18})
    properties = adapter.json_schema()["properties"]
    assert all(properties[field.name]["description"] for field in fields(ModelConfig))
