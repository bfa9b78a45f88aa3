"""Weights to files and back, and files that don't fit."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open

from encnet import ModelConfig, build_model, load_model, load_weights, save_weights
from encnet.weights import Part


class Malicious:
    """Runs code when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.path.touch, ())


@pytest.fixture
def saved(small: ModelConfig, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_weights(build_model(small), small, path, {"step": "7"})
    return path


def test_round_trip(small: ModelConfig, tmp_path: Path) -> None:
    model = build_model(small).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model(torch.randn(2, 3, 64, 64))
    path = tmp_path / "model.safetensors"
    save_weights(model, small, path, {"step": "7"})
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    again, config = load_model(path)
    assert config == small
    assert not again.training
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    images = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(again(images).logits, model.eval()(images).logits)
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_header_tells_what_it_is(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["step"] == "7"
    assert '"backbone": "resnet18"' in metadata["encnet.config"]


def test_load_weights_of_ours(small: ModelConfig, saved: Path) -> None:
    model = build_model(small)
    load_weights(model, saved)
    expected = load_model(saved)[0].state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in model.state_dict().items())


def test_backbone_alone_fits_another_head(small: ModelConfig, saved: Path) -> None:
    model = build_model(replace(small, num_classes=9))
    head = model.head.classifier.weight.clone()
    load_weights(model, saved, part="backbone")
    expected = load_model(saved)[0].backbone.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in model.backbone.state_dict().items())
    assert torch.equal(model.head.classifier.weight, head)


@pytest.mark.parametrize("wrapped", [False, True])
def test_torchvision_checkpoints(small: ModelConfig, tmp_path: Path, wrapped: bool) -> None:
    """The names of a torchvision ResNet-18, older files without num_batches_tracked."""
    source = {
        name: tensor
        for name, tensor in build_model(small).backbone.state_dict().items()
        if "num_batches_tracked" not in name
    }
    file = {**source, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    path = tmp_path / "resnet18.pth"
    prefixed: dict[str, Any] = {f"module.{name}": tensor for name, tensor in file.items()}
    torch.save({"epoch": 3, "state_dict": prefixed} if wrapped else file, path)
    model = build_model(small)
    load_weights(model, path, part="backbone")
    state = model.backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in source.items())
    with pytest.raises(ValueError, match=r"missing: head\.bottleneck\.conv\.weight.*load part='backbone'"):
        load_weights(model, path)


def test_names_what_does_not_fit(small: ModelConfig, saved: Path) -> None:
    model = build_model(replace(small, num_classes=9, aux=False))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"unexpected: aux_head\.") as error:
        load_weights(model, saved)
    assert "4 mis-shaped: " in str(error.value)
    assert "head.context.se.weight (5, 16) for (9, 16)" in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_refuses_pickled_code(small: ModelConfig, tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"state_dict": Malicious(trace)}, path)
    with pytest.raises(ValueError, match=r"evil.pth: not a torch checkpoint of plain tensors .*: convert it first"):
        load_weights(build_model(small), path)
    path.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    with pytest.raises(ValueError, match="not a torch checkpoint"):
        load_weights(build_model(small), path)
    assert not trace.exists()


def test_says_what_is_wrong_with_a_file(small: ModelConfig, saved: Path, tmp_path: Path) -> None:
    model = build_model(small)
    with pytest.raises(ValueError, match=r"nowhere\.safetensors: no such file"):
        load_model(tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match=r"part: 'head' is not a choice: give 'all' or 'backbone'"):
        load_weights(model, saved, part=cast(Part, "head"))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"damaged.safetensors: not a whole safetensors file"):
        load_model(damaged)
    other = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match=r"keys such as encoder.weight are of no known layout: give one of encnet"):
        load_weights(model, other)
    torch.save([torch.zeros(2)], other)
    with pytest.raises(ValueError, match="holds no state dict of tensors"):
        load_weights(model, other)


def test_loading_leaves_the_random_state_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.get_rng_state(), before)
