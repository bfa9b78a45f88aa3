"""Dilated ResNets: four feature maps, at a chosen output stride, with the names of torchvision's state dicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from encnet.choices import check_choice

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
Stem = Literal["plain", "deep64", "deep128"]
OutputStride = Literal[8, 16, 32]

STEM_WIDTHS = {"deep64": (32, 32, 64), "deep128": (64, 64, 128)}


class Features(NamedTuple):
    """Outputs of layer1 to layer4, each (B, C, H / stride, W / stride), sizes rounded up."""

    c2: Tensor
    c3: Tensor
    c4: Tensor
    c5: Tensor


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut. The second one always has the dilation of its stage."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, first_dilation: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride, first_dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, 1, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut, the stride on the 3x3."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, first_dilation: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, first_dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + shortcut)


Block = type[BasicBlock] | type[Bottleneck]

DEPTHS: dict[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A ResNet whose last stages trade stride for dilation (Yu et al., CVPR 2017).

    A stage that loses its stride s runs its first strided convolution with the dilation it was given and everything
    after it with s times that, so that at output stride 8 layer3 has dilations 1, 2, 2, ... and layer4 2, 4, 4, ...;
    the features at every (32 / output_stride)-th position are then those of the network with strides.

    Args:
        backbone: "resnet18" ... "resnet152".
        stem: "plain" is one 7x7 convolution; "deep64" (32-32-64) and "deep128" (64-64-128) are three 3x3 ones.
        output_stride: input size over the size of the last feature map.

    Attributes:
        channels: widths of (c2, c3, c4, c5).

    Raises:
        ValueError: an unknown backbone, stem or output stride.
    """

    def __init__(self, backbone: Backbone, stem: Stem = "plain", output_stride: OutputStride = 8) -> None:
        super().__init__()
        check_choice("backbone", backbone, DEPTHS)
        check_choice("stem", stem, get_args(Stem))
        check_choice("output_stride", output_stride, get_args(OutputStride))
        block, depths = DEPTHS[backbone]
        self.conv1, stem_width = _stem(stem)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.channels = tuple(width * block.expansion for width in (64, 128, 256, 512))
        stages = []
        in_channels = stem_width
        for index, (stride, first_dilation, dilation) in enumerate(stage_strides(output_stride)):
            width, depth = 64 * 2**index, depths[index]
            first = block(in_channels, width, stride, first_dilation, dilation)
            in_channels = width * block.expansion
            rest = [block(in_channels, width, 1, dilation, dilation) for _ in range(depth - 1)]
            stages.append(nn.Sequential(first, *rest))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        initialise(self)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> features at strides 4, 8, then 16 and 32 or output_stride if that is smaller.

        Raises:
            ValueError: images of another shape or dtype.
        """
        check_images(images)
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # (B, stem_width, H / 4, W / 4)
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return Features(c2, c3, c4, self.layer4(c4))


def stage_strides(output_stride: int) -> Sequence[tuple[int, int, int]]:
    """Return (stride, first dilation, dilation of the rest) of layer1 to layer4."""
    plan = []
    reached, dilation = 4, 1
    for wanted in (1, 2, 2, 2):
        first_dilation = dilation
        stride = wanted if reached * wanted <= output_stride else 1
        dilation *= wanted // stride
        reached *= stride
        plan.append((stride, first_dilation, dilation))
    return plan


def initialise(module: nn.Module) -> None:
    """Initialise convolutions with Kaiming's normal (fan out, ReLU); BatchNorm starts as the identity."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            with torch.no_grad():
                # torch counts the outputs of all groups; an input reaches those of its own only.
                layer.weight.mul_(math.sqrt(layer.groups))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_images(images: Tensor) -> None:
    """Check that images are (B, 3, H, W) and floating point.

    Raises:
        ValueError: they aren't.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images: shape {tuple(images.shape)} is not (B, 3, H, W): use encnet.normalize on (B, H, W, 3)"
        )
    if not images.is_floating_point():
        raise ValueError(f"images: dtype {images.dtype} is not floating point: use encnet.normalize on uint8 images")


def _stem(stem: str) -> tuple[nn.Module, int]:
    """Return the first convolutions, up to the last one's BatchNorm, and their width."""
    if stem == "plain":
        return nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False), 64
    first, second, third = STEM_WIDTHS[stem]
    layers = nn.Sequential(
        _conv3x3(3, first, stride=2),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        _conv3x3(first, second),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        _conv3x3(second, third),
    )
    return layers, third


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )
