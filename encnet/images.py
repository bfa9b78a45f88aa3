"""From decoded images to what the networks take."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of RGB in [0, 1] over ImageNet."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of RGB in [0, 1] over ImageNet."""


def normalize(images: Tensor, memory_format: torch.memory_format = torch.channels_last) -> Tensor:
    """Normalise RGB images with ImageNet's mean and standard deviation.

    Args:
        images: (B, H, W, 3) uint8, RGB.
        memory_format: of the result; contiguous_format is the faster one for float32 convolutions on CPUs.

    Returns:
        (B, 3, H, W) float32 on the same device.

    Raises:
        ValueError: images of another shape or dtype.
    """
    if images.dim() != 4 or images.shape[3] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"images: shape {tuple(images.shape)}, {images.dtype}: give (B, H, W, 3) uint8 in RGB order")
    # Not blocking: a GPU that is still at work on the last step is not waited for.
    statistics = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]).mul(255).to(images.device, non_blocking=True)
    mean, std = statistics[:, :, None, None]  # (3, 1, 1)
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format).sub_(mean).div_(std)
