"""The boundary F-score: how well the outlines of classes are found, of which mIoU sees little.

Source: Csurka, Larlus, Perronnin and Meylan, "What is a good evaluation measure for semantic segmentation?", BMVC 2013.
The conventions here:

- A boundary pixel of a class has one of another class above, below, left or right; the image's own border is none.
- An ignored pixel is none and makes none of its neighbours: in the truth and, at its place, in the prediction. Where a
  data set has the outlines themselves ignored (PASCAL VOC), hardly anything is left to be judged.
- Within tolerance are pixels whose centres are no further apart than it (Euclidean distance).
- An image counts for a class with a boundary in its truth or its prediction; in only one of them, it scores 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE = 0.0075
"""Of the image's diagonal: the paper's."""
_NONE = -1


class BoundaryFScore:
    """The F-score of each class's boundary, a mean over images.

    Args:
        num_classes: C; ids are 0 to C - 1.
        ignore_index: label id of pixels that are not judged.
        tolerance: how far off a boundary may be, as a share of the image's diagonal.

    Attributes:
        total: (C) float64, the sum of the images' F-scores.
        num_images: (C) int64, the images in which the class has a boundary in truth or prediction.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, tolerance: float = TOLERANCE) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes: {num_classes} is too small: give at least 1")
        if not 0 <= tolerance <= 1:
            raise ValueError(f"tolerance: {tolerance} is out of range: give a share of the diagonal, e.g. {TOLERANCE}")
        self._protocol = (num_classes, ignore_index, tolerance)
        self.total = np.zeros(num_classes)
        self.num_images = np.zeros(num_classes, np.int64)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Judge a batch of images of one size, on the CPU.

        Args:
            prediction: integer ids, (B, H, W) or (H, W); at ignored pixels any value.
            label: integer ids of the same shape.

        Raises:
            ValueError: shapes differ, or an id of a valid pixel is out of range; nothing is counted then.
        """
        if prediction.shape != label.shape or label.dim() not in (2, 3):
            shapes = f"{tuple(prediction.shape)} and {tuple(label.shape)}"
            raise ValueError(f"prediction, label: shapes {shapes}: give class ids of one shape, (B, H, W) or (H, W)")
        pairs = zip(*(ids.cpu().numpy().reshape(-1, *label.shape[-2:]) for ids in (prediction, label)), strict=True)
        for score in [boundary_f_scores(mine, its, *self._protocol) for mine, its in pairs]:
            self.num_images += ~np.isnan(score)
            self.total += np.nan_to_num(score)

    def merge(self, other: BoundaryFScore) -> BoundaryFScore:
        """Add the images of another one to this one, and return this one.

        Raises:
            ValueError: the other one has another number of classes, ignored id or tolerance.
        """
        if self._protocol != other._protocol:
            mine, others = self._protocol, other._protocol
            raise ValueError(
                f"merge: (num_classes, ignore_index, tolerance) is {others}, not {mine}: merge like scores"
            )
        self.total += other.total
        self.num_images += other.num_images
        return self

    __iadd__ = merge

    @property
    def f_score(self) -> NDArray[np.float64]:
        """(C) float64: each class's mean over images, NaN where it has a boundary in none."""
        return np.divide(self.total, self.num_images, out=np.full_like(self.total, np.nan), where=self.num_images > 0)

    @property
    def mean_f_score(self) -> float:
        """The mean over classes, without those that have a boundary in no image; NaN if none has."""
        scores = self.f_score[self.num_images > 0]
        return float(scores.mean()) if scores.size else math.nan


def boundary_f_scores(
    prediction: NDArray[np.integer], label: NDArray[np.integer], num_classes: int, ignore_index: int, tolerance: float
) -> NDArray[np.float64]:
    """The F-scores of one image, ids (H, W): (C) float64, NaN for a class without a boundary in truth and prediction.

    Raises ValueError for an id of a valid pixel that is out of range.
    """
    judged = label != ignore_index
    truth = _boundary("label", label, judged, num_classes)
    found = _boundary("prediction", prediction, judged, num_classes)
    steps = _disc(tolerance * math.hypot(*label.shape))
    recall, num_true = _share_near(truth, found, steps, num_classes)
    precision, num_found = _share_near(found, truth, steps, num_classes)
    scores = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return np.where(num_true + num_found > 0, scores, np.nan)


def _boundary(name: str, ids: NDArray[np.integer], judged: NDArray[np.bool_], num_classes: int) -> NDArray[np.int32]:
    """(H, W): the class of each boundary pixel, _NONE elsewhere."""
    ids = np.where(judged, ids.astype(np.int32), _NONE)
    wrong = ids[judged & ((ids < 0) | (ids >= num_classes))]
    if wrong.size:
        raise ValueError(f"{name}: id {wrong[0]} is not in 0..{num_classes - 1}: map ids to train ids")
    edge = np.zeros(ids.shape, bool)
    for plane, mark in ((ids, edge), (ids.T, edge.T)):
        differ = (plane[1:] != plane[:-1]) & (plane[1:] != _NONE) & (plane[:-1] != _NONE)
        mark[1:] |= differ
        mark[:-1] |= differ
    return np.where(edge, ids, _NONE)


def _disc(radius: float) -> NDArray[np.int64]:
    """(M, 2): the steps in rows and columns that lead no further than `radius` pixels, nearest first."""
    limit = radius**2 * (1 + 1e-9)  # a tolerance of 5 pixels may come as 4.999...
    reach = math.isqrt(int(limit))
    steps = np.argwhere(np.ones(2 * [2 * reach + 1])) - reach
    squares = (steps**2).sum(1)
    return steps[np.argsort(squares, kind="stable")[: np.count_nonzero(squares <= limit)]]


def _share_near(
    edges: NDArray[np.int32], others: NDArray[np.int32], steps: NDArray[np.int64], num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Per class: the share of the pixels in `edges` that have one of their class in `others` near, and their number."""
    reach = int(steps.max())
    padded = np.pad(others, reach, constant_values=_NONE)
    rows, columns = np.nonzero(edges != _NONE)
    alone = edges[rows, columns]
    place = (rows + reach) * padded.shape[1] + columns + reach
    count = np.bincount(alone, minlength=num_classes)
    for step in steps @ (padded.shape[1], 1):  # only pixels that have found none yet take it, of all classes at once
        missed = padded.reshape(-1)[place + step] != alone
        place, alone = place[missed], alone[missed]
    near = count - np.bincount(alone, minlength=num_classes)
    return near / np.maximum(count, 1), count
