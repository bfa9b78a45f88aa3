"""EncNet and its FCN baseline: backbone, [JPU], head with or without the Context Encoding Module, auxiliary head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encnet.backbone import Features, ResNet, check_images, initialise
from encnet.config import ModelConfig
from encnet.context import ContextEncoding, conv_bn_relu
from encnet.dropout import KeyedDropout2d
from encnet.jpu import JPU

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
    """3x3 or 1x1 conv + BN + ReLU -> [lateral fusion] -> [context] -> [refinement] -> dropout -> 1x1 classifier.

    The refinement is DeepLabV3+'s decoder (Chen et al., ECCV 2018): the map, brought to stride 4, and layer1's
    features, made narrow, pass a 3x3 convolution together.

    Args:
        in_channels: width of the features.
        channels: width of the head.
        config: num_classes, dropout, align_corners and the context module's fields.
        context: whether there is a Context Encoding Module.
        layer: number of the head's dropout layer.
        kernel_size: of the first convolution.
        lateral_channels: widths of the maps to fuse in, none by default.
        fine_channels: width of layer1's features, to refine with where the config says so.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        config: ModelConfig,
        context: bool,
        layer: int,
        kernel_size: int = 3,
        lateral_channels: tuple[int, ...] = (),
        fine_channels: int = 0,
    ) -> None:
        super().__init__()
        self.align_corners = config.align_corners
        self.bottleneck = conv_bn_relu(in_channels, channels, kernel_size)
        self.lateral = nn.ModuleList(conv_bn_relu(width, channels, kernel_size=1) for width in lateral_channels)
        num_maps = 1 + len(lateral_channels)
        self.fusion = conv_bn_relu(num_maps * channels, channels, kernel_size=3) if lateral_channels else None
        # Of the features and of layer2's and layer3's: known here, so that no size is compared in an exported network.
        above_8 = config.output_stride > 8
        self.above_stride_8 = (above_8, False, above_8 or config.jpu)
        self.context = _context(channels, config) if context else None
        narrow = config.detail_channels if fine_channels else 0
        self.detail = conv_bn_relu(fine_channels, narrow, kernel_size=1) if narrow else None
        self.refinement = conv_bn_relu(channels + narrow, channels, kernel_size=3) if narrow else None
        self.dropout = KeyedDropout2d(config.dropout, layer=layer)
        self.classifier = nn.Conv2d(channels, config.num_classes, kernel_size=1)
        initialise(self)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(
        self, features: Tensor, laterals: tuple[Tensor, ...] = (), fine: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, in_channels, h, w) -> logits (B, num_classes, h, w), and SE logits (B, num_classes) or None.

        Where there are laterals the logits have the size of the first, where the head refines that of `fine`.
        """
        x = self.bottleneck(features)  # (B, channels, h, w)
        if self.fusion is not None:
            maps = [x, *(project(lateral) for project, lateral in zip(self.lateral, laterals, strict=True))]
            # The finest keeps its detail.
            size = maps[1].shape[-2:]
            coarse = zip(maps, self.above_stride_8, strict=True)
            maps = [_resize(m, size, self.align_corners) if is_coarse else m for m, is_coarse in coarse]
            x = self.fusion(torch.cat(maps, dim=1))
        se_logits = None
        if self.context is not None:
            x, se_logits = self.context(x)
        if self.detail is not None and self.refinement is not None and fine is not None:
            x = _resize(x, fine.shape[-2:], self.align_corners)
            x = self.refinement(torch.cat([x, self.detail(fine)], dim=1))
        return self.classifier(self.dropout(x)), se_logits


class SegmentationNet(nn.Module):
    """A ResNet, dilated or with a JPU, a segmentation head and an auxiliary head, as its config says.

    Attributes:
        config: the ModelConfig it was built from.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        context = config.arch == "encnet"
        self.backbone = ResNet(config.backbone, config.stem, 32 if config.jpu else config.output_stride)
        c2, c3, c4, c5 = self.backbone.channels
        self.jpu = JPU((c3, c4, c5), config.head_channels, config.align_corners) if config.jpu else None
        # FastFCN's EncNet has 1x1 here: the JPU has looked around already.
        in_channels, kernel_size = (c5, 3) if self.jpu is None else (self.jpu.channels, 1)
        lateral = (c3, c4) if config.lateral else ()
        self.head = Head(
            in_channels,
            config.head_channels,
            config,
            context,
            layer=0,
            kernel_size=kernel_size,
            lateral_channels=lateral,
            fine_channels=c2,
        )
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
        check_images(images)
        _check_size(images, self.config.input_scale)
        features: Features = self.backbone(self._rescale(images))
        laterals = (features.c3, features.c4) if self.config.lateral else ()
        top = features.c5 if self.jpu is None else self.jpu(features.c3, features.c4, features.c5)
        logits, se_logits = self.head(top, laterals, features.c2)
        size = images.shape[-2:] if upsample else None
        aux_logits = None
        if self.aux_head is not None and (self.training if auxiliary is None else auxiliary):
            aux_logits, aux_se_logits = self.aux_head(features.c4)
            aux_logits = self._finish(aux_logits, size)
            if se_logits is not None and aux_se_logits is not None:
                se_logits = torch.stack([se_logits, aux_se_logits], dim=1)  # (B, 2, num_classes)
        return SegmentationOutput(self._finish(logits, size), aux_logits, se_logits)

    def _rescale(self, images: Tensor) -> Tensor:
        if self.config.input_scale == 1:
            return images
        # Rounded in whole numbers, which an exported network can do too.
        times, over = Fraction(self.config.input_scale).limit_denominator(10**6).as_integer_ratio()
        size = [(2 * side * times + over) // (2 * over) for side in images.shape[-2:]]
        return _resize(images, size, self.config.align_corners)

    def _finish(self, logits: Tensor, size: torch.Size | None) -> Tensor:
        # Before the interpolation, so that neighbouring pixels don't round to the same half precision value.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if size is None:
            return logits
        # Upsampling, and taking the argmax of the result, is twice as fast with a pixel's classes side by side.
        if not logits.is_cuda or upsampling_format((*logits.shape[:2], *size)) == torch.channels_last:
            logits = logits.contiguous(memory_format=torch.channels_last)
        return _resize(logits, size, self.config.align_corners)


def build_model(config: ModelConfig) -> SegmentationNet:
    """Build the network that the config describes, its weights initialised from torch's random state."""
    return SegmentationNet(config)


def _context(channels: int, config: ModelConfig) -> ContextEncoding:
    se_classes = config.num_classes if config.se_loss else None
    return ContextEncoding(channels, config.num_codes, se_classes, config.cem_residual, config.cem_reduction)


def upsampling_format(shape: Sequence[int]) -> torch.memory_format:
    """The memory format for upsampling to a shape: on GPUs channels_last ends at 2**31 elements."""
    return torch.channels_last if math.prod(shape) < 2**31 else torch.contiguous_format


def _resize(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    return F.interpolate(maps, size=list(size), mode="bilinear", align_corners=align_corners)


def _check_size(images: Tensor, input_scale: float) -> None:
    height, width = images.shape[2:]
    least = math.ceil(MIN_SIZE / input_scale)
    if height < least or width < least:
        raise ValueError(f"images: {height}x{width} is too small: pad or resize to at least {least}x{least}")
