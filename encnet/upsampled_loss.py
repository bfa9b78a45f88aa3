"""Cross-entropy of logits brought bilinearly to the labels' size, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from encnet.resampling import positions, taps_at

CPU_STRIP_ELEMENTS = 2**21
"""Logits in a strip: what fits into a core's cache."""

GPU_STRIP_ELEMENTS = 2**26
"""Logits in a strip: what keeps a GPU busy."""

ROWS = 16
"""So many rows at least, of fewer images: neighbours share what they are mixed from."""


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
    """Rows of the labels, and those of the logits that they are mixed from."""

    images: slice
    rows: slice
    """R of the labels'."""
    sources: slice
    """S of the logits'."""
    mix: Tensor
    """(R, S): what each row takes of each source."""


def _strips(logits: Tensor, size: Sequence[int], align_corners: bool) -> Iterator[Strip]:
    """Cut labels of `size` (H, W) into strips, none of them larger than it should be."""
    batch, channels, length = logits.shape[:3]
    most = CPU_STRIP_ELEMENTS if logits.device.type == "cpu" else GPU_STRIP_ELEMENTS
    height, rows_that_fit = size[0], max(1, most // max(1, channels * size[1]))
    axis = _interpolation(length, height, align_corners, logits.device, logits.dtype)
    most_images = max(1, min(batch, rows_that_fit // ROWS))
    most_rows = max(1, rows_that_fit // most_images)
    for first, top in product(range(0, batch, most_images), range(0, height, most_rows)):
        bottom = min(top + most_rows, height)
        sources = slice(axis.lows[top], axis.highs[bottom - 1] + 1)
        mix = axis.matrix[top:bottom, sources]
        yield Strip(slice(first, first + most_images), slice(top, bottom), sources, mix)


def _add_strip(
    logits: Tensor, ids: Tensor, weights: Tensor, columns: Tensor, strip: Strip, grad: Tensor | None
) -> Tensor:
    """Return the strip's sum of losses, and add its gradient to `grad`, unless that is None."""
    target = ids[strip.images, strip.rows].unsqueeze(1)  # (B, 1, R, W)
    weight = weights[strip.images, strip.rows].unsqueeze(1)  # (B, 1, R, W)
    scores = strip.mix @ (logits[strip.images, :, strip.sources] @ columns.T)  # (B, C, R, W)
    scores -= scores.amax(dim=1, keepdim=True)
    picked = scores.gather(1, target)
    mass = scores.exp_().sum(dim=1, keepdim=True)  # (B, 1, R, W)
    if grad is not None:
        # weight * (softmax - one-hot), then back through the rows and the columns.
        scores *= weight / mass
        scores.scatter_(1, target, scores.gather(1, target) - weight)
        grad[strip.images, :, strip.sources] += (strip.mix.T @ scores) @ columns  # (B, C, S, w)
    return ((mass.log() - picked) * weight).sum(dtype=torch.float64)


class Interpolation(NamedTuple):
    """Linear interpolation along one axis: each output is a mix of two inputs."""

    lows: list[int]
    """(outputs): the first of the two."""
    highs: list[int]
    """(outputs): the second, which may be the first."""
    matrix: Tensor
    """(outputs, inputs): what each output takes of each input."""


@lru_cache(maxsize=64)  # to copy these to a GPU at every step would wait for the work that it has in hand
def _interpolation(
    inputs: int, outputs: int, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> Interpolation:
    """How `inputs` points become `outputs`, as in F.interpolate."""
    with torch.inference_mode(False):  # or what is kept could not be used in training later
        indices, weights = taps_at(positions(inputs, outputs, align_corners), inputs)  # (2, outputs) each
        matrix = weights.new_zeros(outputs, inputs).scatter_add_(1, indices.T, weights.T)
        lows, highs = indices.tolist()
        return Interpolation(lows, highs, matrix.to(device, dtype))
