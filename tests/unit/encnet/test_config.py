"""ModelConfig: choices checked when it is built, presets, and the way to JSON and back."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any, cast, get_args

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
        ({"output_stride": 8.0}, r"output_stride: 8\.0 is not a choice: choose from 8, 16, 32"),
        (
            {"output_stride": 32, "jpu": True},
            "output_stride: 32 with jpu, .*: leave output_stride at 8, or turn jpu off",
        ),
        ({"num_classes": 0}, "num_classes: 0 is too small: give at least 1"),
        ({"num_codes": 3.0}, "num_codes: 3.0 has the wrong type: give a whole number"),
        ({"head_channels": True}, "head_channels: True has the wrong type: give a whole number"),
        ({"detail_channels": -1}, "detail_channels: -1 is negative: give 48, or 0 for none"),
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


SHARED = {
    "arch": "encnet",
    "backbone": "resnet50",
    "output_stride": 8,
    "jpu": False,
    "input_scale": 1.0,
    "head_channels": 512,
    "num_codes": 32,
    "lateral": False,
    "detail_channels": 0,
    "se_loss": True,
    "aux": True,
    "dropout": 0.1,
}
PUBLISHED = {
    "paper": (59, "plain", True, False, "sum", True),
    "pytorch-encoding": (150, "deep128", True, True, "mean", False),
    "mmseg": (150, "deep64", False, True, "mean", False),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_presets_are_as_published(name: Preset) -> None:
    names = ("num_classes", "stem", "align_corners", "cem_residual", "cem_reduction", "aux_context")
    expected = SHARED | dict(zip(names, PUBLISHED[name], strict=True))
    assert asdict(ModelConfig.preset(name)) == expected
    assert ModelConfig.preset(name, num_classes=19).num_classes == 19


def test_presets_are_all_known() -> None:
    assert set(PRESETS) == set(PUBLISHED) == set(get_args(Preset))


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
