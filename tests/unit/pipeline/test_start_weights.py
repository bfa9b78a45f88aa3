"""Start weights: as much of them as fits is taken, to the last bit, and it is said what was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import encnet
from pipeline.config import OptimConfig
from pipeline.errors import InputError
from pipeline.optim import freeze
from pipeline.start_weights import load_start_weights

CONFIG = encnet.ModelConfig(num_classes=5, backbone="resnet18", output_stride=32, head_channels=16)
CLASSIFIERS = ("head.classifier.", "aux_head.classifier.", "head.context.se.")


def _net(config: encnet.ModelConfig = CONFIG) -> encnet.SegmentationNet:
    return encnet.convert_sync_batchnorm(encnet.build_model(config))


def _saved(folder: Path, config: encnet.ModelConfig = CONFIG) -> dict[str, Tensor]:
    net = encnet.build_model(config)
    encnet.save_weights(net, config, folder / "weights.safetensors")
    return net.state_dict()


def _check(net: encnet.SegmentationNet, before: Mapping[str, Tensor], weights: Mapping[str, Tensor], part: str) -> None:
    """All of `part` is from `weights`, all else as before."""
    for name, tensor in net.state_dict().items():
        taken = {
            "all": True,
            "all-but-classifiers": not name.startswith(CLASSIFIERS),
            "backbone": name.startswith("backbone."),
        }[part]
        assert torch.equal(tensor, weights[name] if taken else before[name]), name


@pytest.mark.parametrize(
    ("changes", "part", "said"),
    [
        ({}, "all", ["all of it"]),
        ({"num_classes": 7}, "all-but-classifiers", ["begin at random", "num_classes=5"]),
        ({"se_loss": False}, "all-but-classifiers", ["begin at random"]),
        ({"head_channels": 32}, "backbone", ["the backbone only", "head_channels=16"]),
        ({"arch": "fcn"}, "backbone", ["the backbone only", "arch='encnet'"]),
        ({"align_corners": True}, "all", ["all of it", "align_corners=False, this run has True"]),
    ],
)
def test_as_much_is_taken_as_fits(tmp_path: Path, changes: dict[str, object], part: str, said: list[str]) -> None:
    weights = _saved(tmp_path)
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    net = _net(config)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for source in (str(tmp_path / "weights.safetensors"), str(tmp_path)):
        notes = load_start_weights(net, source)
        assert notes[0].startswith(f"{source}: ")
        assert all(any(words in note for note in notes) for words in said), notes
        _check(net, before, weights, part)
    assert net.config == config


def test_imagenet_weights_fill_the_backbone(tmp_path: Path) -> None:
    source = encnet.build_model(CONFIG).backbone.state_dict()
    torch.save({**source, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, tmp_path / "r18.pth")
    net = _net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    (taken, why) = load_start_weights(net, str(tmp_path / "r18.pth"))
    assert "the backbone only" in taken
    assert "part='backbone'" in why
    _check(net, before, {f"backbone.{name}": tensor for name, tensor in source.items()}, "backbone")


def test_a_frozen_backbone_takes_them_too(tmp_path: Path) -> None:
    weights, net = _saved(tmp_path), _net()
    freeze(net, OptimConfig(freeze="backbone"))
    load_start_weights(net, str(tmp_path))
    _check(net, {}, weights, "all")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.safetensors", "no such file"),
        ("empty", "holds no weights.safetensors"),
        ("broken.safetensors", "not a whole safetensors file"),
        ("r34", "does not fit the model"),
    ],
)
def test_what_can_t_be_used_is_refused_and_nothing_changed(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "r34").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    _saved(tmp_path / "r34", replace(CONFIG, backbone="resnet34"))
    net = _net()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match=f"^start_weights: .*{message}"):
        load_start_weights(net, str(tmp_path / name))
    _check(net, before, before, "all")
