"""Networks built from their configs."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.export import Dim

from encnet import KeyedDropout2d, ModelConfig, SegmentationNet, build_model, normalize

# The shapes of network that differ in how maps of several sizes meet.
LAYOUTS: list[dict[str, Any]] = [
    {"output_stride": 8, "lateral": True},
    {"output_stride": 16, "lateral": True, "align_corners": True},
    {"output_stride": 32, "aux_context": True},
    {"output_stride": 8, "jpu": True},
    {"output_stride": 8, "jpu": True, "lateral": True, "align_corners": True, "stem": "deep64"},
    {"output_stride": 16, "input_scale": 0.75},
    {"output_stride": 8, "jpu": True, "arch": "fcn"},
    {"output_stride": 16, "lateral": True, "detail_channels": 3},
]


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


def test_jpu_trades_the_dilated_stages_for_its_own_convolutions() -> None:
    with torch.device("meta"):
        plain, jpu = (build_model(ModelConfig(num_classes=150, jpu=on)) for on in (False, True))
    convolutions = [m for m in jpu.backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {conv.dilation for conv in convolutions} == {(1, 1)}
    assert {name: p.shape for name, p in jpu.backbone.named_parameters()} == {
        name: p.shape for name, p in plain.backbone.named_parameters()
    }
    shapes = {name: tuple(p.shape) for name, p in jpu.named_parameters()}
    assert shapes["head.bottleneck.conv.weight"] == (512, 2048, 1, 1)
    assert shapes["aux_head.bottleneck.conv.weight"] == (256, 1024, 3, 3)


@pytest.mark.parametrize("jpu", [False, True])
def test_fcn_is_the_same_network_without_context(small: ModelConfig, jpu: bool) -> None:
    encnet, fcn = (
        build_model(replace(small, arch=arch, output_stride=8, jpu=jpu)).state_dict() for arch in ("encnet", "fcn")
    )
    assert {name for name in encnet if not name.startswith("head.context.")} == set(fcn)
    assert all(fcn[name].shape == encnet[name].shape for name in fcn)


def test_shapes_of_known_checkpoints() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig.preset("pytorch-encoding", lateral=True))
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    assert {(512, 2048, 3, 3), (512, 1024, 1, 1), (512, 1536, 3, 3), (32, 512), (150, 512), (256, 1024, 3, 3)} <= shapes


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_any_size(small: ModelConfig, layout: dict[str, Any]) -> None:
    config = replace(small, **layout)
    model = build_model(config)
    branches = (2, 2, 5) if config.aux_context else (2, 5)

    @settings(max_examples=6, deadline=None)
    @given(height=st.integers(33, 70), width=st.integers(33, 70), training=st.booleans())
    @torch.no_grad()
    def check(height: int, width: int, training: bool) -> None:
        height, width = (math.ceil(side / min(config.input_scale, 1)) for side in (height, width))
        output = model.train(training)(torch.randn(2, 3, height, width), auxiliary=True)
        assert output.logits.shape == (2, 5, height, width)
        assert output.aux_logits is not None
        assert output.aux_logits.shape == (2, 5, height, width)
        assert (output.se_logits is None) == (config.arch == "fcn")
        assert output.se_logits is None or output.se_logits.shape == branches
        assert all(part is None or part.isfinite().all() for part in output)

    check()


@pytest.mark.parametrize("layout", LAYOUTS[1:5:2], ids=str)
@torch.no_grad()
def test_memory_format_changes_nothing(small: ModelConfig, layout: dict[str, Any]) -> None:
    model = build_model(replace(small, dropout=0.0, **layout)).double()
    again = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(2, 3, 49, 70, dtype=torch.float64)
    for training in (True, False):
        expected = model.train(training)(images, auxiliary=True)
        actual = again.train(training)(images.contiguous(memory_format=torch.channels_last), auxiliary=True)
        torch.testing.assert_close(actual, expected)


@torch.no_grad()
def test_exports_with_any_batch_height_and_width(small: ModelConfig) -> None:
    model = build_model(replace(small, output_stride=8, jpu=True, lateral=True, input_scale=0.75)).eval()
    # From 33 pixels after scaling: torch takes a map of 1x1, the least that stride 32 leaves, for a fixed size.
    sizes = {0: Dim("batch"), 2: Dim("height", min=44), 3: Dim("width", min=44)}
    exported = torch.export.export(model, (torch.randn(2, 3, 64, 80),), dynamic_shapes=(sizes,)).module()
    for shape in ((1, 3, 44, 71), (3, 3, 128, 50)):
        images = torch.randn(shape)
        torch.testing.assert_close(exported(images), model(images))


@pytest.mark.parametrize(
    ("scale", "size", "seen"),
    [(0.5, (75, 96), (38, 48)), (0.75, (50, 43), (38, 32)), (1 / 3, (100, 97), (33, 32)), (1.5, (33, 40), (50, 60))],
)
@torch.no_grad()
def test_input_scale(small: ModelConfig, scale: float, size: tuple[int, int], seen: tuple[int, int]) -> None:
    model = build_model(replace(small, input_scale=scale, align_corners=True)).eval()
    inputs: list[torch.Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    images = torch.randn(1, 3, *size)
    assert model(images).logits.shape == (1, 5, *size)
    expected = F.interpolate(images, size=seen, mode="bilinear", align_corners=True)
    torch.testing.assert_close(inputs[0], expected)
    with pytest.raises(ValueError, match=f"too small: pad or resize to at least {math.ceil(32 / scale)}x"):
        model(torch.zeros(1, 3, math.ceil(32 / scale) - 1, 100))


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


@pytest.mark.parametrize("align_corners", [True, False])
@torch.no_grad()
def test_lateral_maps_meet_at_stride_8(small: ModelConfig, align_corners: bool) -> None:
    model = build_model(replace(small, lateral=True, align_corners=align_corners)).eval()
    head, features = model.head, model.backbone(torch.randn(1, 3, 70, 40))
    assert head.fusion is not None
    maps = [head.bottleneck(features.c5), head.lateral[0](features.c3), head.lateral[1](features.c4)]
    resized = [F.interpolate(m, size=(9, 5), mode="bilinear", align_corners=align_corners) for m in maps]
    assert head.context is not None
    expected = head.classifier(head.context(head.fusion(torch.cat(resized, dim=1)))[0])
    torch.testing.assert_close(head(features.c5, (features.c3, features.c4))[0], expected)


@pytest.mark.parametrize("align_corners", [True, False])
@torch.no_grad()
def test_detail_refines_at_stride_4(small: ModelConfig, align_corners: bool) -> None:
    model = build_model(replace(small, detail_channels=3, align_corners=align_corners)).eval()
    head, features = model.head, model.backbone(torch.randn(1, 3, 70, 40))
    assert head.context is not None
    assert head.detail is not None
    assert head.refinement is not None
    context, _ = head.context(head.bottleneck(features.c5))
    resized = F.interpolate(context, size=(18, 10), mode="bilinear", align_corners=align_corners)
    detail = head.detail(features.c2)
    assert detail.shape == (1, 3, 18, 10)
    expected = head.classifier(head.refinement(torch.cat([resized, detail], dim=1)))
    torch.testing.assert_close(head(features.c5, (), features.c2)[0], expected)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_parameter_learns(small: ModelConfig, layout: dict[str, Any]) -> None:
    model = build_model(replace(small, **layout))
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
