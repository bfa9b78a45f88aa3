"""What evaluation does after the network, against the usual way: classes of upsampled logits, and the confusion matrix.

python -m tests.benchmarks.evaluation [--small]
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from encnet import ConfusionMatrix
from encnet.inference import upsampled_argmax
from tests.benchmarks import measure

FULL = (4, 150, 480)
SMALL = (2, 5, 64)
"""Images, classes, and their side in pixels; logits are at stride 8."""
IGNORE = 255


def interpolate_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> class ids (B, H, W), through all of the upsampled logits."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1)


def three_histograms(prediction: Tensor, label: Tensor, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union (C), step by step as PyTorch-Encoding counts them: ignored pixels become class 0."""
    truth = label.numpy().astype(np.int64) + 1
    truth[truth == IGNORE + 1] = 0
    predicted = (prediction.numpy().astype(np.int64) + 1) * (truth > 0)
    hits = predicted * (predicted == truth)
    intersection, *areas = (
        np.histogram(ids, bins=num_classes, range=(1, num_classes))[0] for ids in (hits, predicted, truth)
    )
    return intersection, areas[0] + areas[1] - intersection


def one_bincount(prediction: Tensor, label: Tensor, num_classes: int) -> ConfusionMatrix:
    """The same in a ConfusionMatrix."""
    matrix = ConfusionMatrix(num_classes, ignore_index=IGNORE)
    matrix.update(prediction, label)
    return matrix


def made_up_labels(images: int, num_classes: int, side: int) -> tuple[Tensor, Tensor]:
    """Predictions and labels (B, side, side) uint8 in patches of 16 x 16, a quarter of them wrong, some ignored."""
    patches = (images, side // 16, side // 16)
    truth, guess = torch.randint(0, num_classes, (2, *patches), dtype=torch.uint8)
    prediction = torch.where(torch.rand(patches) < 0.75, truth, guess)
    label = truth.masked_fill(torch.rand(patches) < 0.05, IGNORE)
    prediction, label = torch.stack([prediction, label]).repeat_interleave(16, 2).repeat_interleave(16, 3)
    return prediction, label


def prepare_classes(form: str, sizes: tuple[int, int, int]) -> measure.Call:
    """One form of upsampling and argmax, warmed up at a small size."""
    images, classes, side = sizes
    logits = torch.randn(images, classes, side // 8, side // 8)
    call = upsampled_argmax if form == "upsampled_argmax" else interpolate_argmax
    call(logits[:1, :, :2, :2], (16, 16))
    return partial(call, logits, (side, side))


def tables(small: bool) -> list[Table]:
    """A table for each of the two."""
    images, classes, side = sizes = SMALL if small else FULL
    rounds = 1 if small else 9
    forms = ("interpolate, argmax(1)", "upsampled_argmax")
    seconds = measure.interleaved_medians({form: prepare_classes(form, sizes) for form in forms}, rounds)
    peaks = {form: measure.extra_peak_bytes(prepare_classes, form, sizes) for form in forms}
    what = f"{images} x {side} x {side}, {classes} classes"
    labels = made_up_labels(images, classes, side)
    counts: dict[str, measure.Call] = {
        "three np.histogram": partial(three_histograms, *labels, classes),
        "ConfusionMatrix": partial(one_bincount, *labels, classes),
    }
    return [
        measure.compare(f"Classes of upsampled logits, {what}, float32", seconds, peaks),
        measure.compare(f"Confusion matrix, {what}, uint8", measure.interleaved_medians(counts, rounds)),
    ]


if __name__ == "__main__":
    measure.main(__doc__, tables)
