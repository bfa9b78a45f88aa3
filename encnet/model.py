"""EncNet and its FCN baseline: backbone, head with or without the Context Encoding Module, auxiliary head."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encnet.backbone import Features, ResNet, initialise
from encnet.config import ModelConfig
from encnet.context import ContextEncoding, conv_bn_relu
from encnet.dropout import KeyedDropout2d

MIN_SIZE = 32


class SegmentationOutput(NamedTuple):
    """What a network returns for B images."""

    logits: Tensor
    """(B, num_classes, H, W), float32 or wider."""

    aux_logits: Tensor | None
    """As logits, of the auxiliary head; None without one, and by default outside training."""

    se_logits: Tensor | None
    """(B, num_classes): which classes are present. (B, 2, num_classes) where the auxiliary head has context too."""


class Head(nn.Module):
    """3x3 conv + BN + ReLU -> [lateral fusion] -> [context] -> dropout -> 1x1 classifier.

    Args:
        in_channels: width of the features.
        channels: width of the head.
        config: num_classes, dropout and the context module's fields.
        context: whether there is a Context Encoding Module.
        lateral_channels: widths of the maps to fuse in, none by default.
        layer: number of the head's dropout layer.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        config: ModelConfig,
        context: bool,
        layer: int,
        lateral_channels: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.bottleneck = conv_bn_relu(in_channels, channels, kernel_size=3)
        self.lateral = nn.ModuleList(conv_bn_relu(width, channels, kernel_size=1) for width in lateral_channels)
        num_maps = 1 + len(lateral_channels)
        self.fusion = conv_bn_relu(num_maps * channels, channels, kernel_size=3) if lateral_channels else None
        self.context = _context(channels, config) if context else None
        self.dropout = KeyedDropout2d(config.dropout, layer=layer)
        self.classifier = nn.Conv2d(channels, config.num_classes, kernel_size=1)
        initialise(self)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, features: Tensor, laterals: tuple[Tensor, ...] = ()) -> tuple[Tensor, Tensor | None]:
        """(B, in_channels, h, w) -> logits (B, num_classes, h, w), and SE logits (B, num_classes) or None."""
        x = self.bottleneck(features)  # (B, channels, h, w)
        if self.fusion is not None:
            maps = [x, *(project(lateral) for project, lateral in zip(self.lateral, laterals, strict=True))]
            # Where the output stride is above 8 the maps differ in size: the finest keeps its detail.
            size = maps[1].shape[-2:]
            maps = [F.interpolate(m, size=size, mode="bilinear") if m.shape[-2:] != size else m for m in maps]
            x = self.fusion(torch.cat(maps, dim=1))
        se_logits = None
        if self.context is not None:
            x, se_logits = self.context(x)
        return self.classifier(self.dropout(x)), se_logits


class SegmentationNet(nn.Module):
    """A dilated ResNet with a segmentation head and an auxiliary head, as its config says.

    Attributes:
        config: the ModelConfig it was built from.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        context = config.arch == "encnet"
        self.backbone = ResNet(config.backbone, config.stem, config.output_stride)
        _, c3, c4, c5 = self.backbone.channels
        lateral = (c3, c4) if config.lateral else ()
        self.head = Head(c5, config.head_channels, config, context, layer=0, lateral_channels=lateral)
        self.aux_head = Head(c4, c4 // 4, config, context and config.aux_context, layer=1) if config.aux else None

    def forward(self, images: Tensor, upsample: bool = True, auxiliary: bool | None = None) -> SegmentationOutput:
        """Segment normalised images.

        Args:
            images: (B, 3, H, W) floating point, ImageNet-normalised, H and W at least 32 / input_scale.
            upsample: bring the logits bilinearly to H x W; if false they stay at the heads' resolution.
            auxiliary: run the auxiliary head; None means only in training.

        Raises:
            ValueError: images of another shape or dtype.
        """
        _check_images(images, self.config.input_scale)
        features: Features = self.backbone(self._rescale(images))
        laterals = (features.c3, features.c4) if self.config.lateral else ()
        logits, se_logits = self.head(features.c5, laterals)
        size = images.shape[-2:] if upsample else None
        aux_logits = None
        if self.aux_head is not None and (self.training if auxiliary is None else auxiliary):
            aux_logits, aux_se_logits = self.aux_head(features.c4)
            aux_logits = self._resize(aux_logits, size)
            if se_logits is not None and aux_se_logits is not None:
                se_logits = torch.stack([se_logits, aux_se_logits], dim=1)  # (B, 2, num_classes)
        return SegmentationOutput(self._resize(logits, size), aux_logits, se_logits)

    def _rescale(self, images: Tensor) -> Tensor:
        if self.config.input_scale == 1:
            return images
        size = [round(side * self.config.input_scale) for side in images.shape[-2:]]
        return F.interpolate(images, size=size, mode="bilinear")

    def _resize(self, logits: Tensor, size: torch.Size | None) -> Tensor:
        # Before the interpolation, so that neighbouring pixels don't round to the same half precision value.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if size is None or logits.shape[-2:] == size:
            return logits
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=self.config.align_corners)


def build_model(config: ModelConfig) -> SegmentationNet:
    """Build the network that the config describes, its weights initialised from torch's random state."""
    return SegmentationNet(config)


def _context(channels: int, config: ModelConfig) -> ContextEncoding:
    se_classes = config.num_classes if config.se_loss else None
    return ContextEncoding(channels, config.num_codes, se_classes, config.cem_residual, config.cem_reduction)


def _check_images(images: Tensor, input_scale: float) -> None:
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images: shape {tuple(images.shape)} is not (B, 3, H, W): use encnet.normalize on (B, H, W, 3)"
        )
    if not images.is_floating_point():
        raise ValueError(f"images: dtype {images.dtype} is not floating point: use encnet.normalize on uint8 images")
    height, width = images.shape[2:]
    if round(min(height, width) * input_scale) < MIN_SIZE:
        least = math.ceil(MIN_SIZE / input_scale)
        raise ValueError(f"images: {height}x{width} is too small: pad or resize to at least {least}x{least}")
