"""The Context Encoding Module: scene context from encoded features, used to re-weight channels and name classes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encnet.choices import check_choice
from encnet.encoding import Encoding

CodeReduction = Literal["mean", "sum"]


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """Build a stride-1 convolution without bias that keeps the size, BatchNorm and ReLU, named conv, bn, relu."""
    block = nn.Sequential()
    block.add_module("conv", nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False))
    block.add_module("bn", nn.BatchNorm2d(out_channels))
    block.add_module("relu", nn.ReLU(inplace=True))
    return block


class ContextEncoding(nn.Module):
    """Predict per-channel scaling factors, and the classes present, from the encoded semantics of a feature map.

    1x1 conv + BN + ReLU -> Encoding -> BN over K -> ReLU -> mean over K = e (B, C); gamma = sigmoid(W e + b). The
    paper (section 3.1) outputs x * gamma and writes a sum over K; its authors' code and mmsegmentation output
    relu(x + x * gamma) and take the mean, which is the default here.

    Args:
        channels: C of the feature map.
        num_codes: K, codewords of the Encoding layer.
        num_classes: width of the SE branch, or None for no such branch.
        residual: relu(x + x * gamma) if true, x * gamma if false.
        reduction: how the K codes become one vector.

    Raises:
        ValueError: no channels, codes or classes, or an unknown reduction.
    """

    def __init__(
        self,
        channels: int,
        num_codes: int,
        num_classes: int | None,
        residual: bool = True,
        reduction: CodeReduction = "mean",
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(CodeReduction))
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes: {num_classes} is too small: give at least 1, or None for no SE branch")
        self.channels = channels
        self.residual = residual
        self.reduction = reduction
        self.project = conv_bn_relu(channels, channels, kernel_size=1)
        self.encoding = Encoding(channels, num_codes)
        self.norm = nn.BatchNorm1d(num_codes)
        self.fc = nn.Linear(channels, channels)
        self.se = nn.Linear(channels, num_classes) if num_classes is not None else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Re-weight a feature map by its own context.

        Args:
            x: (B, C, H, W).

        Returns:
            The re-weighted map (B, C, H, W), and the logits of the SE branch (B, num_classes) or None.

        Raises:
            ValueError: x has another number of dimensions or of channels.
        """
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"ContextEncoding: input of shape {tuple(x.shape)} does not fit channels={self.channels}: "
                f"pass (B, {self.channels}, H, W)"
            )
        codes = self.encoding(self.project(x))  # (B, K, C)
        codes = F.relu(self.norm(codes))
        context = codes.mean(dim=1) if self.reduction == "mean" else codes.sum(dim=1)  # (B, C)
        gamma = torch.sigmoid(self.fc(context))[:, :, None, None]  # (B, C, 1, 1)
        scaled = x * gamma  # (B, C, H, W)
        out = F.relu(x + scaled) if self.residual else scaled
        return out, None if self.se is None else self.se(context)
