"""`encnet models`: what `show` prints, what `export` writes, and what both refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import encnet
from encnet import ModelConfig
from encnet.backbone import DEPTHS, BasicBlock
from workflows import cli
from workflows.recipes import RECIPES


@pytest.fixture(autouse=True)
def no_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of anybody's stack, and files go to the test's own folder."""
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """A model in the folder street-model, of one block a stage: an export takes as long as its network is deep."""
    monkeypatch.setitem(DEPTHS, "resnet18", (BasicBlock, (1, 1, 1, 1)))
    config = ModelConfig(num_classes=3, backbone="resnet18", output_stride=32, head_channels=8, num_codes=2)
    (tmp_path / "street-model").mkdir()
    encnet.save_weights(encnet.build_model(config), config, tmp_path / "street-model" / "weights.safetensors")
    return config


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["encnet", "models", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_show_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(monkeypatch, "show", "mmseg") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "mmseg: encnet resnet50, 150 classes, 512x512"
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]] for line in lines if (cells := line.split("│")[1:-1])
    }
    assert rows == {
        "backbone": ["23,527,264", "100.9 G"],
        "head": ["10,057,462", "40.2 G"],
        "of which context module": ["542,304", "1.2 G"],
        "inference": ["33,584,726", "141.1 G"],
        "SE branch": ["76,950", "76.8 k"],
        "auxiliary head": ["2,398,358", "9.8 G"],
        "training (forward)": ["36,060,034", "150.9 G"],
    }


def test_show_takes_other_shapes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--backbone", "resnet101", "--aux", "false", "--se-loss", "false", "--output-stride", "16"]
    assert _run(monkeypatch, "show", "mmseg", *changes, "--size", "64x96", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"]["backbone"] == "resnet101"
    assert shown["config"]["output_stride"] == 16
    assert shown["size"] == [64, 96]
    assert shown["training"] == shown["inference"]
    assert shown["training"]["parameters"] == 52_576_854


def test_show_knows_recipes_and_stored_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stored: ModelConfig
) -> None:
    configs = {"camvid_r18": RECIPES["camvid_r18"]().model, "street-model": stored}
    for model, config in {**configs, "street-model/weights.safetensors": stored}.items():
        assert _run(monkeypatch, "show", model, "--json", "--size", "128x128") == 0
        shown = json.loads(capsys.readouterr().out)
        assert ModelConfig.from_dict(shown["config"]) == config
        assert shown["training"]["parameters"] == encnet.model_cost(config).training.parameters


def test_export_writes_what_torch_loads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stored: ModelConfig
) -> None:
    assert _run(monkeypatch, "export", "street-model", "--format", "pt2") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("street-model.pt2: street-model as pt2, ")
    assert rest == [
        "images  (batch, 3, height, width) float32: RGB, (pixel / 255 - mean) / std",
        "        mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)",
        "logits  (batch, 3, height, width) float32",
    ]
    images = torch.randn(1, 3, 40, 50)
    model, _ = encnet.load_model("street-model/weights.safetensors")
    torch.testing.assert_close(torch.export.load("street-model.pt2").module()(images), model(images).logits)
    assert _run(monkeypatch, "export", "street-model", "--format", "pt2") == 2
    assert "output: 'street-model.pt2' is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["show", "mmsegg"], "MODEL: 'mmsegg': no such preset, recipe, folder or file: did you mean 'mmseg'?"),
        (["show", "mmseg", "--size", "512"], "size: '512': write HEIGHTxWIDTH, e.g. 512x1024"),
        (["show", "mmseg", "--size", "9x99"], "size: images: 9x99 is too small: pad or resize to at least 32x32"),
        (["show", "mmseg", "--num-classes", "0"], "model.num_classes: 0 is too small: give at least 1"),
        (["show", "paper", "--backbone", "vgg"], "model.backbone: 'vgg': input should be 'resnet18', "),
        (["show", "street-model", "--aux", "no"], "aux: the shape of a stored model is fixed: change a preset's"),
        (["show", "models:/street/1"], "stack is not up: MLFLOW_TRACKING_URI is not set: run `encnet stack up`, or"),
        (["export", "nowhere"], "MODEL: 'nowhere': holds no weights.safetensors: name a registered model or a folder"),
        (["export", "broken.safetensors"], "MODEL: broken.safetensors: not a whole safetensors file"),
        (["export", "street-model", "--output", "x.pt2"], "output: 'x.pt2' does not end in .onnx: rename it, or"),
    ],
)
@pytest.mark.usefixtures("stored")
def test_what_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    Path("broken.safetensors").write_text("not a header")
    assert _run(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"encnet: {line}")
    assert shown.err.count("\n") == 1
