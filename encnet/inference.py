"""Class probabilities and classes of images of any size: whole or by sliding window, over scales and flips."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encnet.backbone import check_images
from encnet.model import MIN_SIZE, upsampling_format
from encnet.windows import Axis, Views

STRIPE_WINDOWS = 4
"""Wider images are classified in stripes of at most this many windows, so that memory does not grow with the width."""


def predict(
    model: nn.Module,
    images: Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crop_size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    window_batch: int | None = None,
) -> Tensor:
    """Average the class probabilities of images over scales, flips and overlapping windows.

    With one scale of 1, no flip and no crop_size the result is the softmax of the plain forward's logits. The model
    runs in evaluation mode and without gradients; its mode is restored afterwards.

    Args:
        model: what `build_model` returns.
        images: (B, 3, H, W) floating point, normalised, of any size, on the model's device.
        scales: factors on H and W.
        flip: also every window mirrored, as in PyTorch-Encoding.
        crop_size: an image larger than this (side, or height and width), after scaling, is predicted by a sliding
            window of this size; None takes images whole.
        stride: of the window, by default int(2/3 of crop_size), as in PyTorch-Encoding.
        window_batch: how many windows, or whole images, go through the model together; by default B.

    Returns:
        (B, num_classes, H, W) float32, summing to 1 over classes.

    Raises:
        ValueError: no scale, a scale that isn't positive, windows that leave gaps, or images of another shape or dtype.
    """
    views, _ = _views(model, images, scales, flip, crop_size, stride, window_batch)
    height, width = images.shape[2:]
    result: Tensor | None = None
    with _evaluating(model):
        for rows, columns, probabilities in views.bands(partial(_probabilities, model), images, width):
            if result is None:
                result = probabilities.new_empty(len(images), height, width, probabilities.shape[3])
            result[:, rows, columns] = probabilities
    assert result is not None
    return result.permute(0, 3, 1, 2)


def predict_classes(
    model: nn.Module,
    images: Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crop_size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    window_batch: int | None = None,
) -> Tensor:
    """The most probable class of each pixel: predict(...).argmax(1), in memory bounded by the window.

    Besides images and result no tensor grows with the image where crop_size is given: probabilities are held for a band
    of B x (crop height / least scale, at most 1) x (4 crop widths) pixels, and finished rows are turned into classes.
    Windows on the border between two stripes of 4 crop widths are run for both. Whole images with one scale of 1 and
    without flip need no probabilities: theirs are the classes of `upsampled_argmax`, one image at a time.

    Args:
        model, images, scales, flip, crop_size, stride, window_batch: as in `predict`.

    Returns:
        (B, H, W) uint8, or int32 for more than 256 classes. Of classes that are equally probable the first.

    Raises:
        ValueError: as `predict`.
    """
    views, stripe = _views(model, images, scales, flip, crop_size, stride, window_batch)
    with _evaluating(model):
        if views.plain:
            parts = [upsampled_argmax(*_small_logits(model, part)) for part in images.split(views.batch)]
            return torch.cat(parts)[:, : images.shape[2], : images.shape[3]]
        result: Tensor | None = None
        for rows, columns, probabilities in views.bands(partial(_probabilities, model), images, stripe):
            if result is None:
                result = images.new_empty(len(images), *images.shape[2:], dtype=_ids_dtype(probabilities.shape[3]))
            result[:, rows, columns] = probabilities.max(3).indices
    assert result is not None
    return result


def predict_with_confidence(
    model: nn.Module,
    images: Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crop_size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    window_batch: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The classes of `predict_classes`, and how probable they are: predict(...).max(1), in memory bounded likewise.

    Args:
        model, images, scales, flip, crop_size, stride, window_batch: as in `predict`.

    Returns:
        (B, H, W) uint8, or int32 for more than 256 classes; (B, H, W) float32 in [0, 1], to rounding.

    Raises:
        ValueError: as `predict`.
    """
    views, stripe = _views(model, images, scales, flip, crop_size, stride, window_batch)
    height, width = images.shape[2:]
    with _evaluating(model):
        if views.plain:
            parts = [upsampled_best(*_small_logits(model, part)) for part in images.split(views.batch)]
            classes, confidence = (torch.cat(maps)[:, :height, :width] for maps in zip(*parts, strict=True))
            return classes, confidence.float()
        confidence = images.new_empty(len(images), height, width, dtype=torch.float32)
        ids: Tensor | None = None
        for rows, columns, probabilities in views.bands(partial(_probabilities, model), images, stripe):
            if ids is None:
                ids = images.new_empty(confidence.shape, dtype=_ids_dtype(probabilities.shape[3]))
            best = probabilities.max(3)
            ids[:, rows, columns], confidence[:, rows, columns] = best.indices, best.values
    assert ids is not None
    return ids, confidence


@torch.no_grad()
def upsampled_argmax(logits: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """The classes of bilinearly upsampled logits: F.interpolate(logits, size).argmax(1), faster and in less memory.

    One image at a time, in channels_last, as the networks upsample. Logits upsampled in another memory format are
    rounded otherwise: where a pixel's two best logits differ by no more than that, so may the class.

    Args:
        logits: (B, num_classes, h, w).
        size: H and W.
        align_corners: how the upsampling treats the corner pixels.

    Returns:
        (B, H, W) uint8, or int32 for more than 256 classes. Of classes with equal upsampled logits the first.
    """
    classes = logits.new_empty(len(logits), *size, dtype=_ids_dtype(logits.shape[1]))
    for upsampled, result in zip(_upsampled(logits, size, align_corners), classes, strict=True):
        result.copy_(upsampled.max(0).indices)  # the first of equals, as argmax, in half its time
    return classes


@torch.no_grad()
def upsampled_best(logits: Tensor, size: Sequence[int], align_corners: bool = False) -> tuple[Tensor, Tensor]:
    """The classes of `upsampled_argmax`, and the softmax of the upsampled logits at them.

    Args:
        logits, size, align_corners: as in `upsampled_argmax`.

    Returns:
        (B, H, W) uint8, or int32 for more than 256 classes; (B, H, W) float32, or float64 for such logits.
    """
    classes = logits.new_empty(len(logits), *size, dtype=_ids_dtype(logits.shape[1]))
    confidence = logits.new_empty(classes.shape, dtype=torch.promote_types(logits.dtype, torch.float32))
    for upsampled, ids, shares in zip(_upsampled(logits, size, align_corners), classes, confidence, strict=True):
        best = upsampled.max(0)
        ids.copy_(best.indices)
        shares.copy_(upsampled.sub_(best.values).exp_().sum(0).reciprocal_())
    return classes, confidence


def _upsampled(logits: Tensor, size: Sequence[int], align_corners: bool) -> Iterator[Tensor]:
    """The bilinearly upsampled logits (num_classes, H, W) of one image after the other, in the same memory."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits.contiguous(memory_format=torch.channels_last)
    # F.interpolate would take new memory for each image; that takes as long as the upsampling.
    shape = (1, logits.shape[1], *size)
    upsampled = torch.empty(shape, dtype=logits.dtype, device=logits.device, memory_format=upsampling_format(shape))
    for image in logits.split(1):
        torch.ops.aten.upsample_bilinear2d.out(image, list(size), align_corners, out=upsampled)
        yield upsampled[0]


def _views(
    model: nn.Module,
    images: Tensor,
    scales: Sequence[float],
    flip: bool,
    crop_size: int | tuple[int, int] | None,
    stride: int | tuple[int, int] | None,
    window_batch: int | None,
) -> tuple[Views, int]:
    """Return what the arguments of `predict` ask for, and the width of a stripe."""
    check_images(images)
    if not images.numel():
        raise ValueError(f"images: shape {tuple(images.shape)} holds nothing: give at least one image of one pixel")
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales: {tuple(scales)}: give at least one, all above 0")
    if window_batch is not None and window_batch < 1:
        raise ValueError(f"window_batch: {window_batch} is too small: give at least 1")
    crop, step = _window(crop_size, stride)
    size, align_corners = tuple(images.shape[2:]), _align_corners(model)

    def axis(dim: int, scale: float) -> Axis:
        scaled = max(1, round(size[dim] * scale))
        return Axis(size[dim], scaled, min(crop[dim], scaled), step[dim], align_corners)

    grids = [(axis(0, scale), axis(1, scale)) for scale in scales]
    return Views(grids, flip, window_batch or len(images)), min(size[1], STRIPE_WINDOWS * crop[1])


def _window(
    crop_size: int | tuple[int, int] | None, stride: int | tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the window's (height, width), without limit where there is no crop_size, and the strides."""
    if crop_size is None:
        if stride is not None:
            raise ValueError(f"stride: {stride} without a crop_size: give crop_size too")
        return (sys.maxsize, sys.maxsize), (1, 1)
    crop = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    if stride is None:
        stride = (int(crop[0] * 2 / 3), int(crop[1] * 2 / 3))
    step = (stride, stride) if isinstance(stride, int) else stride
    if min(crop) < MIN_SIZE:
        raise ValueError(f"crop_size: {crop_size} is too small: give at least {MIN_SIZE}")
    if not all(1 <= s <= c for s, c in zip(step, crop, strict=True)):
        raise ValueError(f"stride: {stride} with crop_size {crop_size}: give 1 <= stride <= crop_size")
    return crop, step


def _probabilities(model: nn.Module, windows: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, h, w, num_classes) float32."""
    height, width = windows.shape[2:]
    logits = model(_pad(model, windows)).logits[..., :height, :width]
    return torch.softmax(logits.permute(0, 2, 3, 1).float(), dim=3)


def _small_logits(model: nn.Module, images: Tensor) -> tuple[Tensor, Sequence[int], bool]:
    """What `upsampled_argmax` takes for (B, 3, H, W), padded to the least size that the model takes."""
    padded = _pad(model, images)
    return model(padded, upsample=False).logits, padded.shape[2:], _align_corners(model)


def _pad(model: nn.Module, images: Tensor) -> Tensor:
    """Images below the model's least size, padded with 0: the mean colour."""
    height, width = images.shape[2:]
    least = math.ceil(MIN_SIZE / getattr(_config(model), "input_scale", 1.0))
    padding = (0, max(0, least - width), 0, max(0, least - height))
    return F.pad(images, padding) if any(padding) else images


def _align_corners(model: nn.Module) -> bool:
    return bool(getattr(_config(model), "align_corners", False))


def _config(model: nn.Module) -> object:
    """The config of a network, also inside DistributedDataParallel or DataParallel."""
    return getattr(getattr(model, "module", model), "config", None)


def _ids_dtype(num_classes: int) -> torch.dtype:
    return torch.uint8 if num_classes <= 256 else torch.int32


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients, and then each of its modules back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
