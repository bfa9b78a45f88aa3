"""Joint Pyramid Upsampling: features at stride 8 from a backbone without dilation (FastFCN, Wu et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encnet.backbone import initialise
from encnet.context import conv_bn_relu

DILATIONS = (1, 2, 4, 8)


class JPU(nn.Module):
    """Join the maps of the last three stages at the first one's size (arXiv 1903.11816, section 3.3).

    Each map: 3x3 conv + BN + ReLU to `width`, bilinear to the size of c3. The three side by side go through four
    separable convolutions of dilation 1, 2, 4 and 8 in parallel, which stand in for the backbone's dilated stages.
    Maps are concatenated in the order of the authors' code, c5 first.

    Args:
        in_channels: widths of (c3, c4, c5).
        width: of each branch.
        align_corners: how bilinear upsampling treats the corner pixels.

    Attributes:
        channels: width of the result, 4 * width.
    """

    def __init__(self, in_channels: tuple[int, int, int], width: int = 512, align_corners: bool = False) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = len(DILATIONS) * width
        self.align_corners = align_corners
        self.project = nn.ModuleList(conv_bn_relu(channels, width, kernel_size=3) for channels in in_channels)
        joint = len(in_channels) * width
        self.branches = nn.ModuleList(_separable(joint, width, dilation) for dilation in DILATIONS)
        initialise(self)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> Tensor:
        """(B, C3, h, w), (B, C4, h / 2, w / 2), (B, C5, h / 4, w / 4) -> (B, 4 * width, h, w).

        Raises:
            ValueError: maps of other widths.
        """
        self._check(c3, c4, c5)
        fine, *coarse = (project(features) for project, features in zip(self.project, (c3, c4, c5), strict=True))
        size = fine.shape[-2:]
        upsampled = [F.interpolate(m, size=size, mode="bilinear", align_corners=self.align_corners) for m in coarse]
        joint = torch.cat([*reversed(upsampled), fine], dim=1)  # (B, 3 * width, h, w)
        return torch.cat([branch(joint) for branch in self.branches], dim=1)

    def _check(self, *maps: Tensor) -> None:
        if any(m.dim() != 4 or m.shape[1] != channels for m, channels in zip(maps, self.in_channels, strict=True)):
            shapes = ", ".join(str(tuple(m.shape)) for m in maps)
            raise ValueError(
                f"JPU: maps of shapes {shapes} do not fit in_channels={self.in_channels}: "
                "pass c3, c4 and c5 of the backbone, each (B, C, H, W)"
            )


def _separable(in_channels: int, out_channels: int, dilation: int) -> nn.Sequential:
    """Build a depthwise 3x3 conv + BN, without ReLU, then a pointwise conv + BN + ReLU."""
    block = nn.Sequential()
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
    )
    block.add_module("depthwise", depthwise)
    block.add_module("bn", nn.BatchNorm2d(in_channels))
    block.add_module("pointwise", conv_bn_relu(in_channels, out_channels, kernel_size=1))
    return block
