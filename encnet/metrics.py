"""The confusion matrix of a data set and the scores read from it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

PART_PIXELS = 2**18
"""Pixels counted at a time: an allocator keeps what they take; getting fresh memory would take longer than counting."""


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all valid pixels, and pixAcc, mIoU and per-class IoU.

    Scores are of the whole data set, not means over images, and NaN where nothing was counted.

    Args:
        num_classes: C; ids are 0 to C - 1.
        ignore_index: label id of pixels that are not counted.
        count_absent: whether classes that never occur in the ground truth, but were predicted, count as IoU 0 in mIoU.

    Attributes:
        matrix: (C, C) int64 on the CPU, rows are the truth, columns the prediction.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, count_absent: bool = False) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes: {num_classes} is too small: give at least 1")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.count_absent = count_absent
        with torch.inference_mode(False):  # or it could not be updated outside of it
            self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count the pixels of a batch, on the device they are on.

        One bincount over pairs of ids, with those that are ignored or out of range among them: nothing is picked out by
        a mask. Quickest with ids that fit uint8.

        Args:
            prediction: integer ids of any shape; at ignored pixels any value.
            label: integer ids of the same shape, on the same device.

        Raises:
            ValueError: not integers, shapes differ, or an id of a valid pixel is out of range; nothing is counted then.
        """
        _check("prediction", prediction)
        _check("label", label)
        if prediction.shape != label.shape:
            raise ValueError(
                f"prediction: shape {tuple(prediction.shape)} differs from the label's {tuple(label.shape)}: "
                "give class ids, not logits, at the label's size"
            )
        counts, num_ignored = self._count(prediction, label)
        if counts.sum() + num_ignored != label.numel():
            self._refuse(prediction, label)
        self.matrix += counts

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add the counts of another matrix to this one, and return this one.

        Raises:
            ValueError: the other one has another number of classes or ignores another id.
        """
        mine, others = (self.num_classes, self.ignore_index), (other.num_classes, other.ignore_index)
        if mine != others:
            raise ValueError(
                f"merge: (num_classes, ignore_index) is {others}, not {mine}: merge matrices of the same data set"
            )
        self.matrix += other.matrix
        return self

    __iadd__ = merge

    def reduce(self, group: dist.ProcessGroup | None = None) -> ConfusionMatrix:
        """Sum the counts of all ranks into each rank's matrix (a no-op where not distributed), and return this one."""
        if dist.is_available() and dist.is_initialized():
            # NCCL moves tensors of GPUs only.
            device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
            counts = self.matrix.to(device)
            dist.all_reduce(counts, group=group)
            self.matrix = counts.cpu()
        return self

    @property
    def iou(self) -> Tensor:
        """Intersection over union of each class: (C) float64, NaN where absent from truth and prediction."""
        hits = self.matrix.diagonal().double()
        return hits / (self._truth + self._predicted - hits)

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes in the ground truth (with count_absent: over all that occur in either)."""
        return float(self.iou[self._counted].mean())

    def mean_iou_of(self, classes: Iterable[int]) -> float:
        """mean_iou over some classes only, e.g. 1 to 59 where class 0 of PASCAL-Context's 60 is the background.

        Raises:
            ValueError: a class is out of range.
        """
        chosen = torch.zeros(self.num_classes, dtype=torch.bool)
        for class_id in classes:
            if not 0 <= class_id < self.num_classes:
                raise ValueError(f"classes: {class_id} is not a class: give ids in 0..{self.num_classes - 1}")
            chosen[class_id] = True
        return float(self.iou[chosen & self._counted].mean())

    @property
    def mean_iou_with_background(self) -> float:
        """mean_iou with one class more, of IoU 0: a background that the model does not know.

        The EncNet paper's score over 60 classes of PASCAL-Context is this, 51.7 = 52.6 * 59 / 60: not one measured with
        60 classes.
        """
        counted = int(self._counted.sum())
        return self.mean_iou * counted / (counted + 1)

    @property
    def num_absent(self) -> int:
        """Number of classes that never occur in the ground truth: those that mean_iou leaves out."""
        return int((self._truth == 0).sum())

    @property
    def pix_acc(self) -> float:
        """Share of valid pixels that are right."""
        return float(self.matrix.diagonal().sum().double() / self.matrix.sum())

    @property
    def freq_weighted_iou(self) -> float:
        """Mean IoU, each class weighted by its share of the ground truth."""
        return float((self.iou.nan_to_num(0) * self._truth).sum() / self._truth.sum())

    @property
    def score(self) -> float:
        """Mean of pixAcc and mIoU, the measure of the ADE20K challenge."""
        return (self.pix_acc + self.mean_iou) / 2

    @property
    def _counted(self) -> Tensor:
        """(C) bool: the classes in mIoU."""
        return ~self.iou.isnan() if self.count_absent else self._truth > 0

    @property
    def _truth(self) -> Tensor:
        return self.matrix.sum(dim=1).double()

    @property
    def _predicted(self) -> Tensor:
        return self.matrix.sum(dim=0).double()

    def _count(self, prediction: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels by label and prediction, (C, C) on the CPU, and the number of ignored ones; bad ids are in neither."""
        truth, predicted, ignored, side = _narrow(label), _narrow(prediction), self.ignore_index, 256
        narrow = truth.dtype == predicted.dtype == torch.uint8
        if not (narrow and self.num_classes <= 256 and 0 <= ignored < 256):
            ignored, side = self.num_classes + 1, self.num_classes + 2
            predicted = torch.where(self._in_range(prediction), prediction.long(), self.num_classes)
            truth = torch.where(self._in_range(label), label.long(), self.num_classes)
            truth = torch.where(label.long() == self.ignore_index, ignored, truth)
        counts = _count_pairs(truth.flatten(), predicted.flatten(), side).cpu()
        num_ignored = counts[ignored].sum()
        counts[ignored] = 0
        return counts[: self.num_classes, : self.num_classes], num_ignored

    def _in_range(self, ids: Tensor) -> Tensor:
        return (ids >= 0) & (ids.long() < self.num_classes)

    def _refuse(self, prediction: Tensor, label: Tensor) -> NoReturn:
        valid = label.long() != self.ignore_index
        for name, ids in (("label", label), ("prediction", prediction)):
            bad = ids[valid & ~self._in_range(ids)]
            if len(bad):
                raise ValueError(
                    f"{name}: id {int(bad[0])} is not in 0..{self.num_classes - 1}: "
                    f"map ids to train ids, or to {self.ignore_index} where they don't count"
                )
        raise AssertionError("counts are outside the matrix, but all ids are in range")


def _check(name: str, ids: Tensor) -> None:
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise ValueError(f"{name}: dtype {ids.dtype} holds no class ids: give integers, e.g. logits.argmax(1)")


def _count_pairs(first: Tensor, second: Tensor, side: int) -> Tensor:
    """(N) and (N) ids below `side` -> (side, side) int64: how often each pair occurs, by one bincount a part."""
    parts = zip(first.split(PART_PIXELS), second.split(PART_PIXELS), strict=True)
    counts = (torch.bincount(one.int().mul_(side).add_(other), minlength=side * side) for one, other in parts)
    return reduce(Tensor.add_, counts).reshape(side, side)


def _narrow(ids: Tensor) -> Tensor:
    """The ids in uint8 where all of them fit."""
    if ids.dtype == torch.uint8 or not ids.numel():
        return ids.to(torch.uint8)
    least, most = ids.aminmax()
    return ids.to(torch.uint8) if least >= 0 and most <= 255 else ids
