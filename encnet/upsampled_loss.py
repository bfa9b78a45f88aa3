"""Cross-entropy of logits brought bilinearly to the labels' size, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from encnet.resampling import positions, taps_at

CPU_STRIP_ELEMENTS = 2**20
"""Logits in a strip: what fits into a core's cache."""

GPU_STRIP_ELEMENTS = 2**26
"""Logits in a strip: what keeps a GPU busy."""


def upsampled_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    ignore_index: int = 255,
    align_corners: bool = False,
) -> Tensor:
    """Return sum(w_y * nll) over the valid pixels, as F.cross_entropy of F.interpolate(logits) would.

    The upsampled logits are never whole in memory, forward or backward: strips of rows are interpolated, and their
    gradient is reduced to that of the small logits at once.

    Args:
        logits: (B, C, h, w), computed with in float32 (float64 for float64 logits).
        labels: (B, H, W) integer ids below C, or ignore_index.
        class_weights: (C) or None.
        ignore_index: label id of pixels that don't count.
        align_corners: as in F.interpolate.

    Returns:
        A scalar of the logits' dtype, at least float32.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    labels = labels.long()  # a uint8 would take an ignore_index of -100 for 156
    valid = labels != ignore_index
    ids = labels.where(valid, 0)
    weights = valid.to(dtype) if class_weights is None else class_weights.to(dtype)[ids] * valid
    with torch.autocast(logits.device.type, enabled=False):
        summed: Tensor = _UpsampledCrossEntropy.apply(logits.to(dtype), ids, weights, align_corners)
    return summed


class _UpsampledCrossEntropy(torch.autograd.Function):
    """(B, C, h, w) logits, (B, H, W) int64 ids and weights of pixels -> the weighted sum of -log softmax.

    The forward computes the gradient as well, since it has each strip's softmax at hand; the backward scales it.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, weights: Tensor, align_corners: bool) -> Tensor:
        grad = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        total = logits.new_zeros((), dtype=torch.float64)
        columns = _interpolation(logits.shape[3], ids.shape[2], align_corners, logits.device, logits.dtype).matrix
        for strip in _strips(logits, ids.shape[1:], align_corners):
            total += _add_strip(logits, ids, weights, columns, strip, grad)
        ctx.save_for_backward(grad)
        return total.to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * upstream, None, None, None


class Strip(NamedTuple):
    """Rows of the labels between the same two rows of the logits."""

    images: slice
    rows: slice
    low: int
    high: int
    mix: Tensor
    """(2, R): what each row takes from row `low` and from row `high` of the logits."""


def _strips(logits: Tensor, size: Sequence[int], align_corners: bool) -> Iterator[Strip]:
    """Cut labels of `size` (H, W) into strips, none of them larger than it should be."""
    batch, channels, length = logits.shape[:3]
    most = CPU_STRIP_ELEMENTS if logits.device.type == "cpu" else GPU_STRIP_ELEMENTS
    rows_that_fit = most // max(1, channels * size[1])
    most_rows = max(1, rows_that_fit)
    most_images = max(1, rows_that_fit // math.ceil(size[0] / length))
    axis = _interpolation(length, size[0], align_corners, logits.device, logits.dtype)
    for first in range(0, batch, most_images):
        for top, bottom in pairwise([*_cuts(axis.lows, most_rows), size[0]]):
            images, rows = slice(first, first + most_images), slice(top, bottom)
            yield Strip(images, rows, axis.lows[top], axis.highs[top], axis.mix[:, rows])


def _cuts(lows: Sequence[int], most_rows: int) -> list[int]:
    """Where strips begin: at a new `low`, and after `most_rows`."""
    cuts = [0]
    for row, low in enumerate(lows):
        if low != lows[cuts[-1]] or row - cuts[-1] == most_rows:
            cuts.append(row)
    return cuts


def _add_strip(
    logits: Tensor, ids: Tensor, weights: Tensor, columns: Tensor, strip: Strip, grad: Tensor | None
) -> Tensor:
    """Return the strip's sum of losses, and add its gradient to `grad`, unless that is None."""
    target = ids[strip.images, strip.rows].unsqueeze(1)  # (B, 1, R, W)
    weight = weights[strip.images, strip.rows].unsqueeze(1)  # (B, 1, R, W)
    low, high = (logits[strip.images, :, row] @ columns.T for row in (strip.low, strip.high))  # (B, C, W)
    scores = torch.lerp(low.unsqueeze(2), high.unsqueeze(2), strip.mix[1][:, None])  # (B, C, R, W)
    scores -= scores.amax(dim=1, keepdim=True)
    picked = scores.gather(1, target)
    mass = scores.exp_().sum(dim=1, keepdim=True)  # (B, 1, R, W)
    if grad is not None:
        # weight * (softmax - one-hot), then back through the rows and the columns.
        scores *= weight / mass
        scores.scatter_(1, target, scores.gather(1, target) - weight)
        pulled = (strip.mix @ scores) @ columns  # (B, C, 2, w)
        grad[strip.images, :, strip.low] += pulled[:, :, 0]
        grad[strip.images, :, strip.high] += pulled[:, :, 1]
    return ((mass.log() - picked) * weight).sum(dtype=torch.float64)


class Interpolation(NamedTuple):
    """Linear interpolation along one axis: each output is a mix of two inputs."""

    lows: list[int]
    """(outputs): the first of the two."""
    highs: list[int]
    """(outputs): the second, which may be the first."""
    mix: Tensor
    """(2, outputs): what is taken of each."""
    matrix: Tensor
    """(outputs, inputs): all of it as one product."""


@lru_cache(maxsize=64)  # to copy these to a GPU at every step would wait for the work that it has in hand
def _interpolation(
    inputs: int, outputs: int, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> Interpolation:
    """How `inputs` points become `outputs`, as in F.interpolate."""
    with torch.inference_mode(False):  # or what is kept could not be used in training later
        indices, weights = taps_at(positions(inputs, outputs, align_corners), inputs)  # (2, outputs) each
        matrix = weights.new_zeros(outputs, inputs).scatter_add_(1, indices.T, weights.T)
        lows, highs = indices.tolist()
        return Interpolation(lows, highs, weights.to(device, dtype), matrix.to(device, dtype))
