"""Networks built from their configs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from encnet import KeyedDropout2d, ModelConfig, SegmentationNet, build_model, normalize


def num_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(config).parameters())


@pytest.mark.parametrize(
    ("backbone", "training", "inference"),
    [("resnet50", 36_060_034, 33_584_726), ("resnet101", 55_052_162, 52_576_854)],
)
def test_mmseg_sizes(backbone: str, training: int, inference: int) -> None:
    assert num_parameters(ModelConfig.preset("mmseg", backbone=backbone)) == training
    assert num_parameters(ModelConfig.preset("mmseg", backbone=backbone, aux=False, se_loss=False)) == inference


def test_shapes_of_known_checkpoints() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig.preset("pytorch-encoding", lateral=True))
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    assert {(512, 2048, 3, 3), (512, 1024, 1, 1), (512, 1536, 3, 3), (32, 512), (150, 512), (256, 1024, 3, 3)} <= shapes


@settings(max_examples=8, deadline=None)
@given(height=st.integers(32, 80), width=st.integers(32, 80))
def test_any_size_from_32(small: ModelConfig, height: int, width: int) -> None:
    model = build_model(replace(small, lateral=True, aux_context=True)).train()
    output = model(torch.randn(2, 3, height, width))
    assert output.logits.shape == (2, 5, height, width)
    assert output.aux_logits is not None
    assert output.aux_logits.shape == (2, 5, height, width)
    assert output.se_logits is not None
    assert output.se_logits.shape == (2, 2, 5)


def test_what_is_absent_is_none(small: ModelConfig) -> None:
    images = torch.randn(2, 3, 40, 40)
    fcn = build_model(replace(small, arch="fcn", aux_context=True))
    assert not any("encoding" in name for name in fcn.state_dict())
    assert fcn(images).se_logits is None
    assert fcn(images).aux_logits is not None
    bare = build_model(replace(small, aux=False, se_loss=False))(images)
    assert (bare.aux_logits, bare.se_logits) == (None, None)


def test_auxiliary_head_runs_in_training_or_when_asked(small: ModelConfig) -> None:
    model = build_model(small).eval()
    images = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert model(images).aux_logits is None
        asked = model(images, auxiliary=True)
        assert asked.aux_logits is not None
        assert asked.se_logits is not None
        assert asked.se_logits.shape == (2, 5)


@pytest.mark.parametrize("align_corners", [True, False])
@torch.no_grad()
def test_low_resolution_logits_upsample_to_the_same(small: ModelConfig, align_corners: bool) -> None:
    model = build_model(replace(small, align_corners=align_corners)).eval()
    images = torch.randn(1, 3, 70, 40)
    low = model(images, upsample=False).logits
    assert low.shape == (1, 5, 3, 2)
    expected = F.interpolate(low, size=(70, 40), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(model(images).logits, expected)


def test_every_parameter_learns(small: ModelConfig) -> None:
    model = build_model(replace(small, lateral=True, aux_context=True))
    output = model(torch.randn(2, 3, 64, 64))
    torch.stack([part.square().sum() for part in output if part is not None]).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_empty_batch(small: ModelConfig) -> None:
    output = build_model(small).eval()(torch.randn(0, 3, 40, 50), auxiliary=True)
    assert output.logits.shape == (0, 5, 40, 50)
    sum(part.sum() for part in output if part is not None).backward()


def test_logits_are_float32_under_autocast(small: ModelConfig) -> None:
    model = build_model(small)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 40, 40))
    assert output.logits.dtype == torch.float32
    assert output.logits.isfinite().all()


def test_dropout_layers_are_numbered(small: ModelConfig) -> None:
    layers = [m.layer for m in build_model(small).modules() if isinstance(m, KeyedDropout2d)]
    assert layers == [0, 1]


def test_same_seed_same_weights(small: ModelConfig) -> None:
    models: list[SegmentationNet] = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(build_model(small))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 40, 40, 3), r"shape \(1, 40, 40, 3\) is not \(B, 3, H, W\): use encnet.normalize"),
        (torch.zeros(1, 3, 40, 40, dtype=torch.uint8), "uint8 is not floating point: use encnet.normalize"),
        (torch.zeros(1, 3, 40, 31), "40x31 is too small: pad or resize to at least 32x32"),
    ],
)
def test_says_what_is_wrong_with_images(small: ModelConfig, images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(small)(images)


def test_normalize() -> None:
    images = torch.randint(0, 256, (2, 5, 4, 3), dtype=torch.uint8)
    actual = normalize(images)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((images.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 4, 4\), torch.uint8: give \(B, H, W, 3\) uint8"):
        normalize(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
