"""Dilated ResNets: sizes, names, and dilation as the equal of stride."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from encnet import ResNet
from encnet.backbone import Backbone, OutputStride, Stem

# Parameters of torchvision's ResNets less those of fc.
NUM_PARAMETERS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
}


@pytest.mark.parametrize("backbone", list(NUM_PARAMETERS))
def test_has_torchvisions_parameters(backbone: Backbone) -> None:
    with torch.device("meta"):
        model = ResNet(backbone)
    assert sum(parameter.numel() for parameter in model.parameters()) == NUM_PARAMETERS[backbone]
    names = set(model.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer4.1.bn2.bias", "layer2.0.downsample.1.weight"} <= names
    assert ("layer1.0.downsample.0.weight" in names) == ("layer1.0.conv3.weight" in names)


# (stride, dilation) of the 3x3 convolution of every block of ResNet-50; no multi-grid.
RESNET50_BLOCKS: dict[OutputStride, list[tuple[int, int]]] = {
    8: [(1, 1)] * 3 + [(2, 1)] + [(1, 1)] * 3 + [(1, 1)] + [(1, 2)] * 5 + [(1, 2)] + [(1, 4)] * 2,
    16: [(1, 1)] * 3 + [(2, 1)] + [(1, 1)] * 3 + [(2, 1)] + [(1, 1)] * 5 + [(1, 1)] + [(1, 2)] * 2,
    32: [(1, 1)] * 3 + [(2, 1)] + [(1, 1)] * 3 + [(2, 1)] + [(1, 1)] * 5 + [(2, 1)] + [(1, 1)] * 2,
}


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_every_block_of_resnet50(output_stride: OutputStride) -> None:
    with torch.device("meta"):
        model = ResNet("resnet50", output_stride=output_stride)
    blocks = [block for layer in (model.layer1, model.layer2, model.layer3, model.layer4) for block in layer]
    for block, (stride, dilation) in zip(blocks, RESNET50_BLOCKS[output_stride], strict=True):
        convolutions = dict(block.named_children())
        expected = {"conv1": (1, 1, 0), "conv2": (stride, dilation, dilation), "conv3": (1, 1, 0)}
        for name, values in expected.items():
            conv = convolutions[name]
            assert isinstance(conv, nn.Conv2d)
            assert [conv.stride, conv.dilation, conv.padding] == [(value, value) for value in values]
        if isinstance(shortcut := convolutions.get("downsample"), nn.Sequential):
            assert shortcut[0].stride == (stride, stride)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("output_stride", [8, 16])
@torch.no_grad()
def test_dilation_computes_what_strides_skip(backbone: Backbone, output_stride: OutputStride) -> None:
    strided = ResNet(backbone, output_stride=32).double().eval()
    dilated = ResNet(backbone, output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    step = 32 // output_stride
    expected, actual = strided(images), dilated(images)
    assert actual.c5.shape[-2:] == (64 // output_stride, 96 // output_stride)
    torch.testing.assert_close(actual.c5[..., ::step, ::step], expected.c5)
    torch.testing.assert_close(actual.c4[..., :: step // 2 or 1, :: step // 2 or 1], expected.c4)


@pytest.mark.parametrize(("stem", "widths"), [("deep64", [32, 32, 64]), ("deep128", [64, 64, 128])])
def test_deep_stems(stem: Stem, widths: list[int]) -> None:
    model = ResNet("resnet18", stem)
    assert isinstance(model.conv1, nn.Sequential)
    assert [layer.out_channels for layer in model.conv1 if isinstance(layer, nn.Conv2d)] == widths
    assert [name for name in model.state_dict() if name.startswith("conv1") and name.endswith("weight")] == [
        f"conv1.{index}.weight" for index in (0, 1, 3, 4, 6)
    ]
    assert model.bn1.num_features == widths[-1]


@pytest.mark.parametrize("stem", ["plain", "deep64", "deep128"])
def test_no_convolution_has_a_bias(stem: Stem) -> None:
    with torch.device("meta"):
        model = ResNet("resnet50", stem)
    assert [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None] == []


@torch.no_grad()
def test_odd_sizes_round_up() -> None:
    features = ResNet("resnet18").eval()(torch.randn(1, 3, 33, 70))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (64, 9, 18),
        (128, 5, 9),
        (256, 5, 9),
        (512, 5, 9),
    ]


def test_initial_values_keep_the_scale_of_activations() -> None:
    model = ResNet("resnet18")
    conv = model.layer3[1].conv1
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet51"}, r"backbone: 'resnet51' is not a choice: did you mean 'resnet50'\?"),
        ({"stem": "deep"}, r"stem: 'deep' is not a choice: did you mean 'deep64'\?"),
        ({"output_stride": 4}, "output_stride: 4 is not a choice: choose from 8, 16, 32"),
    ],
)
def test_names_what_does_not_exist(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet(**{"backbone": "resnet18", **arguments})


def test_says_what_is_wrong_with_images() -> None:
    model = ResNet("resnet18")
    with pytest.raises(ValueError, match=r"shape \(3, 40, 40\) is not \(B, 3, H, W\): use encnet.normalize"):
        model(torch.zeros(3, 40, 40))
    with pytest.raises(ValueError, match=r"shape \(1, 4, 40, 40\) is not \(B, 3, H, W\)"):
        model(torch.zeros(1, 4, 40, 40))
