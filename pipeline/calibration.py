"""Calibration: whether a model is right as often as it says it is.

Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017. A pixel's confidence is
the probability of the class predicted; bin m of M holds confidences in ((m - 1) / M, m / M], and the first one 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_ABOVE_ONE = 1e-3
"""What a probability may be above 1 by, from rounding in half precision or in a mean over views."""


class ReliabilityPoint(NamedTuple):
    """A point of the reliability curve: the pixels of one bin."""

    confidence: float
    """Their mean confidence."""
    accuracy: float
    """The share of them that is right."""
    num_pixels: int


class Calibration:
    """Confidence against correctness of all valid pixels, in bins of equal width.

    Args:
        num_bins: M.
        ignore_index: label id of pixels that are not counted.

    Attributes:
        num_pixels: (M) int64.
        num_right: (M) int64, those predicted right.
        confidence: (M) float64, the sum of the confidences.
    """

    def __init__(self, num_bins: int = 15, ignore_index: int = 255) -> None:
        if num_bins < 1:
            raise ValueError(f"num_bins: {num_bins} is too small: give at least 1")
        self.num_bins, self.ignore_index = num_bins, ignore_index
        self.num_pixels = np.zeros(num_bins, np.int64)
        self.num_right = np.zeros(num_bins, np.int64)
        self.confidence = np.zeros(num_bins)

    def update(self, confidence: Tensor, prediction: Tensor, label: Tensor) -> None:
        """Count the pixels of a batch, on the CPU.

        Args:
            confidence: floating point, of any shape; at ignored pixels any value.
            prediction: integer ids of the same shape, on the same device.
            label: integer ids of the same shape, on the same device.

        Raises:
            ValueError: shapes differ, or the confidence of a valid pixel is no probability; nothing is counted then.
        """
        if not confidence.shape == prediction.shape == label.shape:
            shapes = ", ".join(str(tuple(one.shape)) for one in (confidence, prediction, label))
            raise ValueError(f"shapes of confidence, prediction and label are {shapes}: give the same for all")
        valid = label != self.ignore_index
        sure = confidence[valid].double().cpu().numpy()
        right = (prediction == label)[valid].cpu().numpy()
        wrong = sure[~((sure >= 0) & (sure <= 1 + _ABOVE_ONE))]
        if wrong.size:
            raise ValueError(
                f"confidence: {wrong[0]} is not in 0..1: give probabilities, e.g. logits.softmax(1).amax(1)"
            )
        sure = sure.clip(max=1)
        bins = np.ceil(sure * self.num_bins).astype(np.int64).clip(min=1) - 1
        self.num_pixels += np.bincount(bins, minlength=self.num_bins)
        self.num_right += np.bincount(bins[right], minlength=self.num_bins)
        self.confidence += np.bincount(bins, weights=sure, minlength=self.num_bins)

    def merge(self, other: Calibration) -> Calibration:
        """Add the pixels of another one to this one, and return this one.

        Raises:
            ValueError: the other one has another number of bins or ignores another id.
        """
        mine, others = (self.num_bins, self.ignore_index), (other.num_bins, other.ignore_index)
        if mine != others:
            raise ValueError(f"merge: (num_bins, ignore_index) is {others}, not {mine}: merge counts of one protocol")
        self.num_pixels += other.num_pixels
        self.num_right += other.num_right
        self.confidence += other.confidence
        return self

    __iadd__ = merge

    @property
    def ece(self) -> float:
        """The expected calibration error: how far the accuracy and mean confidence of bins differ, by pixels."""
        return self._per_pixel(np.abs(self.confidence - self.num_right))

    @property
    def overconfidence(self) -> float:
        """Mean confidence minus accuracy: above 0 the model is too sure of itself, below 0 not sure enough.

        No further from 0 than `ece`, and nearer where bins err to both sides.
        """
        return self._per_pixel(self.confidence - self.num_right)

    @property
    def curve(self) -> list[ReliabilityPoint]:
        """The reliability curve: a point for each bin that holds any pixel, in the order of confidence."""
        bins = np.flatnonzero(self.num_pixels).tolist()
        return [
            ReliabilityPoint(
                float(self.confidence[at] / self.num_pixels[at]),
                float(self.num_right[at] / self.num_pixels[at]),
                int(self.num_pixels[at]),
            )
            for at in bins
        ]

    def _per_pixel(self, bins: NDArray[np.float64]) -> float:
        """The sum over bins per pixel; NaN where none was counted."""
        num_pixels = int(self.num_pixels.sum())
        return float(bins.sum()) / num_pixels if num_pixels else math.nan
