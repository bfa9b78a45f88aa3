"""Networks on a ResNet-18 with the module names of PyTorch-Encoding, mmsegmentation and torchvision, written out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Outputs = tuple[Tensor, Tensor, Tensor]


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        first, second = dilations
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=first, dilation=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=second, dilation=second, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential()
        if inputs != width or stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.downsample(x))


class Codes(nn.Module):
    def __init__(self, channels: int, num_codes: int) -> None:
        super().__init__()
        self.codewords = nn.Parameter(torch.randn(num_codes, channels))
        self.scale = nn.Parameter(-torch.rand(num_codes))

    def forward(self, x: Tensor) -> Tensor:
        residuals = x.flatten(2).transpose(1, 2)[:, :, None] - self.codewords  # (B, N, K, C)
        weights = torch.softmax(self.scale * residuals.square().sum(3), dim=2)
        return (weights[..., None] * residuals).sum(1)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def stages(stem_width: int) -> dict[str, nn.Module]:
    """layer1 to layer4 of a ResNet-18 at output stride 8."""
    return {
        "layer1": nn.Sequential(Block(stem_width, 64, 1, (1, 1)), Block(64, 64, 1, (1, 1))),
        "layer2": nn.Sequential(Block(64, 128, 2, (1, 1)), Block(128, 128, 1, (1, 1))),
        "layer3": nn.Sequential(Block(128, 256, 1, (1, 2)), Block(256, 256, 1, (2, 2))),
        "layer4": nn.Sequential(Block(256, 512, 1, (2, 4)), Block(512, 512, 1, (4, 4))),
    }


def deep_stem(*widths: int) -> list[nn.Module]:
    first, second, third = widths
    return [
        nn.Conv2d(3, first, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(),
        nn.Conv2d(second, third, 3, padding=1, bias=False),
    ]


def run_stages(parts: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = parts["layer2"](parts["layer1"](F.max_pool2d(x, 3, 2, 1)))
    c4 = parts["layer3"](x)
    return x, c4, parts["layer4"](c4)


def sequence(inputs: int, outputs: int, kernel_size: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class PyTorchEncoding(nn.Module):
    """resnet18s with lateral connections, as for PASCAL-Context."""

    def __init__(self, classes: int, width: int, codes: int) -> None:
        super().__init__()
        stem = nn.Sequential(*deep_stem(64, 64, 128))
        parts = {"conv1": stem, "bn1": nn.BatchNorm2d(128), **stages(128), "fc": nn.Linear(512, 10)}
        self.pretrained: Any = nn.ModuleDict(parts)
        encoding = [*sequence(width, width, 1), Codes(width, codes), nn.BatchNorm1d(codes), nn.ReLU(), Mean()]
        module = {
            "encoding": nn.Sequential(*encoding),
            "fc": nn.Sequential(nn.Linear(width, width), nn.Sigmoid()),
            "selayer": nn.Linear(width, classes),
        }
        self.head: Any = nn.ModuleDict(
            {
                "conv5": sequence(512, width, 3),
                "connect": nn.ModuleList([sequence(128, width, 1), sequence(256, width, 1)]),
                "fusion": sequence(3 * width, width, 3),
                "encmodule": nn.ModuleDict(module),
                "conv6": nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1)),
            }
        )
        last = [nn.Dropout2d(0.1), nn.Conv2d(64, classes, 1)]
        self.auxlayer: Any = nn.ModuleDict({"conv5": nn.Sequential(*sequence(256, 64, 3), *last)})

    def forward(self, images: Tensor) -> Outputs:
        c3, c4, c5 = run_stages(self.pretrained, F.relu(self.pretrained["bn1"](self.pretrained["conv1"](images))))
        head, module = self.head, self.head["encmodule"]
        x = torch.cat([head["conv5"](c5), head["connect"][0](c3), head["connect"][1](c4)], 1)
        x = head["fusion"](x)
        context = module["encoding"](x)
        logits = head["conv6"](F.relu(x + x * module["fc"](context)[:, :, None, None]))
        maps = [F.interpolate(m, images.shape[2:], mode="bilinear", align_corners=True) for m in (logits, self.aux(c4))]
        return maps[0], maps[1], module["selayer"](context)

    def aux(self, c4: Tensor) -> Tensor:
        result: Tensor = self.auxlayer["conv5"](c4)
        return result


class ConvModule(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class MMSegmentation(nn.Module):
    """ResNetV1c-18 with `add_lateral`."""

    def __init__(self, classes: int, width: int, codes: int, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners
        stem = nn.Sequential(*deep_stem(32, 32, 64), nn.BatchNorm2d(64), nn.ReLU())
        self.backbone: Any = nn.ModuleDict({"stem": stem, **stages(64)})
        module = {
            "encoding_project": ConvModule(width, width, 1),
            "encoding": nn.Sequential(Codes(width, codes), nn.BatchNorm1d(codes), nn.ReLU()),
            "fc": nn.Sequential(nn.Linear(width, width), nn.Sigmoid()),
        }
        self.decode_head: Any = nn.ModuleDict(
            {
                "conv_seg": nn.Conv2d(width, classes, 1),
                "bottleneck": ConvModule(512, width, 3),
                "lateral_convs": nn.ModuleList([ConvModule(128, width, 1), ConvModule(256, width, 1)]),
                "fusion": ConvModule(3 * width, width, 3),
                "enc_module": nn.ModuleDict(module),
                "se_layer": nn.Linear(width, classes),
            }
        )
        convs = nn.Sequential(ConvModule(256, 64, 3))
        self.auxiliary_head: Any = nn.ModuleDict({"conv_seg": nn.Conv2d(64, classes, 1), "convs": convs})

    def forward(self, images: Tensor) -> Outputs:
        c3, c4, c5 = run_stages(self.backbone, self.backbone["stem"](images))
        head, module = self.decode_head, self.decode_head["enc_module"]
        laterals = [lateral(m) for lateral, m in zip(head["lateral_convs"], (c3, c4), strict=True)]
        x = head["fusion"](torch.cat([head["bottleneck"](c5), *laterals], 1))
        context = module["encoding"](module["encoding_project"](x)).mean(1)
        logits = head["conv_seg"](F.relu(x + x * module["fc"](context)[:, :, None, None]))
        aux = self.auxiliary_head["conv_seg"](self.auxiliary_head["convs"](c4))
        size, align = images.shape[2:], self.align_corners
        maps = [F.interpolate(m, size, mode="bilinear", align_corners=align) for m in (logits, aux)]
        return maps[0], maps[1], head["se_layer"](context)


def convolution(inputs: int, width: int, classes: int) -> nn.Sequential:
    """torchvision's FCNHead."""
    return nn.Sequential(*sequence(inputs, width, 3), nn.Dropout(0.1), nn.Conv2d(width, classes, 1))


class TorchvisionFCN(nn.Module):
    """Like torchvision's fcn_resnet50, on a ResNet-18."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        stem = {"conv1": nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), "bn1": nn.BatchNorm2d(64)}
        self.backbone: Any = nn.ModuleDict({**stem, **stages(64)})
        self.classifier = convolution(512, width, classes)
        self.aux_classifier = convolution(256, 64, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        _, c4, c5 = run_stages(self.backbone, F.relu(self.backbone["bn1"](self.backbone["conv1"](images))))
        maps = (self.classifier(c5), self.aux_classifier(c4))
        logits, aux = (F.interpolate(m, images.shape[2:], mode="bilinear", align_corners=False) for m in maps)
        return logits, aux


def randomise(model: nn.Module) -> None:
    """Give the BatchNorms statistics and scales that a permutation would show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
