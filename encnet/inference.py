"""Class probabilities of images of any size: whole or by sliding window, over scales and flips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encnet.model import MIN_SIZE


def predict(
    model: nn.Module,
    images: Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crop_size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
) -> Tensor:
    """Average the class probabilities of images over scales, flips and overlapping windows.

    With one scale of 1, no flip and no crop_size the result is the softmax of the plain forward's logits. The model
    runs in evaluation mode and without gradients; its mode is restored afterwards.

    Args:
        model: what `build_model` returns.
        images: (B, 3, H, W) floating point, normalised, of any size, on the model's device.
        scales: factors on H and W.
        flip: also the horizontally flipped images.
        crop_size: an image larger than this (side, or height and width), after scaling, is predicted by a sliding
            window of this size; None takes images whole.
        stride: of the window, by default int(2/3 of crop_size), as in PyTorch-Encoding.

    Returns:
        (B, num_classes, H, W) float32, summing to 1 over classes.

    Raises:
        ValueError: no scale, a scale that isn't positive, or windows that leave gaps.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales: {tuple(scales)}: give at least one, all above 0")
    crop, step = _window(crop_size, stride)
    size = images.shape[-2:]
    total: Tensor | None = None
    with _evaluating(model), torch.no_grad():
        for scale in scales:
            scaled = _resize(model, images, (round(size[0] * scale), round(size[1] * scale)))
            probabilities = _slide(model, scaled, crop, step)
            if flip:
                flipped = _slide(model, scaled.flip(3), crop, step)
                probabilities = (probabilities + flipped.flip(3)) / 2
            probabilities = _resize(model, probabilities, size)
            total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total / len(scales)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows begin so that they cover `length`, the last one moved back to end with it."""
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def _window(
    crop_size: int | tuple[int, int] | None, stride: int | tuple[int, int] | None
) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """Return (crop height, width) or None, and the strides."""
    if crop_size is None:
        if stride is not None:
            raise ValueError(f"stride: {stride} without a crop_size: give crop_size too")
        return None, (1, 1)
    crop = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    if stride is None:
        stride = (int(crop[0] * 2 / 3), int(crop[1] * 2 / 3))
    step = (stride, stride) if isinstance(stride, int) else stride
    if min(crop) < MIN_SIZE:
        raise ValueError(f"crop_size: {crop_size} is too small: give at least {MIN_SIZE}")
    if not all(1 <= s <= c for s, c in zip(step, crop, strict=True)):
        raise ValueError(f"stride: {stride} with crop_size {crop_size}: give 1 <= stride <= crop_size")
    return crop, step


def _slide(model: nn.Module, images: Tensor, crop: tuple[int, int] | None, step: tuple[int, int]) -> Tensor:
    """Probabilities of (B, 3, h, w) images, whole or averaged over the windows that see a pixel."""
    height, width = images.shape[-2:]
    if crop is None or (height <= crop[0] and width <= crop[1]):
        return _probabilities(model, images)
    rows, columns = min(crop[0], height), min(crop[1], width)
    total, counts = None, images.new_zeros(1, 1, height, width, dtype=torch.float32)
    for top in window_starts(height, rows, step[0]):
        for left in window_starts(width, columns, step[1]):
            window = (..., slice(top, top + rows), slice(left, left + columns))
            probabilities = _probabilities(model, images[window])
            if total is None:
                total = probabilities.new_zeros(*probabilities.shape[:2], height, width)
            total[window] += probabilities
            counts[window] += 1
    assert total is not None
    return total / counts


def _probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Softmax of the model's logits; images below the model's least size are padded with 0, the mean colour."""
    height, width = images.shape[-2:]
    least = math.ceil(MIN_SIZE / getattr(getattr(model, "config", None), "input_scale", 1.0))
    padding = (0, max(0, least - width), 0, max(0, least - height))
    images = F.pad(images, padding) if any(padding) else images
    logits = model(images).logits[..., :height, :width]  # (B, num_classes, height, width)
    return torch.softmax(logits.float(), dim=1)


def _resize(model: nn.Module, maps: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    align_corners = bool(getattr(getattr(model, "config", None), "align_corners", False))
    return F.interpolate(maps, size=[max(1, side) for side in size], mode="bilinear", align_corners=align_corners)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, and each of its modules back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
