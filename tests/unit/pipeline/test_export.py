"""Exported files give other runtimes the model's own logits, at any size, and are whole or not there."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import encnet
from encnet.backbone import DEPTHS, BasicBlock
from pipeline.errors import InputError
from pipeline.export import OPSET, check_output, describe, export_model
from pipeline.shards import DatasetInfo

SIZES = [(1, 96, 96), (1, 77, 97), (3, 121, 66)]
"""Batch, height, width."""

HERE = str(Path(encnet.__file__).parents[1]).encode()
"""A path of this machine's."""

NARROW = encnet.ModelConfig(num_classes=2, backbone="resnet18", head_channels=16, num_codes=4)
VARIANTS = {
    "default": NARROW,
    "with every resize": replace(
        NARROW, output_stride=16, lateral=True, input_scale=0.5, align_corners=True, detail_channels=3
    ),
}


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block a stage: an export takes as long as its network is deep."""
    monkeypatch.setitem(DEPTHS, "resnet18", (BasicBlock, (1, 1, 1, 1)))


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> encnet.SegmentationNet:
    return _lively(VARIANTS[request.param])


@pytest.fixture
def dataset() -> DatasetInfo:
    palette = ((0, 0, 255), (128, 64, 128))
    return DatasetInfo(name="street", version="1", classes=("sky", "road"), palette=palette, splits={})


def _lively(config: encnet.ModelConfig) -> encnet.SegmentationNet:
    """A model whose every layer matters: statistics and codewords as after training, not as at the start."""
    torch.manual_seed(0)
    model = encnet.build_model(config).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(std=0.3)
            layer.running_var.uniform_(0.5, 2.0)
        elif isinstance(layer, encnet.Encoding):
            nn.init.normal_(layer.codewords)
            nn.init.uniform_(layer.scale, -0.1, 0.0)
    nn.init.normal_(model.head.classifier.weight, std=0.2)
    return model


def _images_and_logits(model: encnet.SegmentationNet) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    images = [torch.randn(batch, 3, height, width) for batch, height, width in SIZES]
    with torch.no_grad():
        logits = [model(image).logits for image in images]
    assert min(float(each.std()) for each in logits) > 0.1
    return list(zip(images, logits, strict=True))


def test_onnxruntime_gives_the_same_logits(model: encnet.SegmentationNet, tmp_path: Path, dataset: DatasetInfo) -> None:
    path = tmp_path / "model.onnx"
    facts = describe(model.config, "models:/made-up/3", dataset)
    export_model(model, path, "onnx", facts)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(float)", ["batch", 3, "height", "width"])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 2, "height", "width"])
    for inputs, expected in _images_and_logits(model):
        (actual,) = session.run(None, {"images": inputs.numpy()})
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert HERE not in path.read_bytes()
    assert session.get_modelmeta().custom_metadata_map.items() >= facts.items()
    assert [(entry.domain, entry.version) for entry in onnx.load(path).opset_import] == [("", OPSET)]
    assert list(tmp_path.iterdir()) == [path]


def test_torch_gives_the_same_logits(tmp_path: Path) -> None:
    model, path = _lively(VARIANTS["with every resize"]), tmp_path / "model.pt2"
    facts = describe(model.config, "models:/made-up/3")
    export_model(model, path, "pt2", facts)
    found = dict.fromkeys(facts, "")
    loaded = torch.export.load(path, extra_files=found).module()
    assert found == facts
    assert HERE not in path.read_bytes()
    for images, expected in _images_and_logits(model):
        torch.testing.assert_close(loaded(images), expected, rtol=1e-4, atol=1e-4)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_describes_itself(dataset: DatasetInfo) -> None:
    facts = describe(NARROW, "models:/made-up/3", dataset)
    assert facts.pop("encnet.source") == "models:/made-up/3"
    known = {name: json.loads(text) for name, text in facts.items()}
    assert encnet.ModelConfig.from_dict(known.pop("encnet.config")) == NARROW
    assert known == {
        "encnet.mean": [0.485, 0.456, 0.406],
        "encnet.std": [0.229, 0.224, 0.225],
        "encnet.classes": ["sky", "road"],
        "encnet.palette": [[0, 0, 255], [128, 64, 128]],
    }


def test_another_data_set_is_refused(dataset: DatasetInfo) -> None:
    with pytest.raises(InputError) as caught:
        describe(replace(NARROW, num_classes=5), "models:/made-up/3", dataset)
    assert str(caught.value) == (
        "data: 'street' has 2 classes, but the model has 5: name the data set that it was trained on"
    )


def test_a_failed_export_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("the one before")

    def full_disk(program: object, place: Path, **options: object) -> None:
        place.write_text("half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch.export, "save", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        export_model(_lively(NARROW), path, "pt2", {}, replace=True)
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"model.pt2": "the one before"}


def test_an_output_that_can_not_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there.pt2").touch()
    (tmp_path / "folder.pt2").mkdir()
    check_output(tmp_path / "there.pt2", "pt2", replace=True)
    for name, may_replace, message in (
        ("there.pt2", False, "is there already: choose another --output, or replace it by --force"),
        ("folder.pt2", True, "is a folder: choose another --output"),
        ("model.onnx", False, "does not end in .pt2: rename it, or choose another --format"),
        ("nowhere/model.pt2", False, "is no folder: make it, or choose another --output"),
    ):
        with pytest.raises(InputError, match=f"^output: '{tmp_path}/[a-z./2]+' {message}$"):
            check_output(tmp_path / name, "pt2", may_replace)


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(InputError) as caught:
        check_output(tmp_path / "model.onnx", "onnx", replace=False)
    assert str(caught.value) == (
        "format: onnx needs the package onnxscript: pip install 'encnet-pipeline[export]', or use --format pt2"
    )
    check_output(tmp_path / "model.pt2", "pt2", replace=False)
