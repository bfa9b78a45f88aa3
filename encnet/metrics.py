"""The confusion matrix of a data set and the scores read from it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


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
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count the pixels of a batch, on the device they are on.

        Args:
            prediction: integer ids of any shape.
            label: integer ids of the same shape, on the same device.

        Raises:
            ValueError: shapes differ, or an id of a valid pixel is out of range; nothing is counted then.
        """
        if prediction.shape != label.shape:
            raise ValueError(
                f"prediction: shape {tuple(prediction.shape)} differs from the label's {tuple(label.shape)}: "
                "give class ids, not logits, at the label's size"
            )
        valid = label != self.ignore_index
        truth = label[valid].long()  # (N)
        predicted = prediction[valid].long()  # (N)
        self._check("label", truth)
        self._check("prediction", predicted)
        size = self.num_classes
        counts = torch.bincount(truth * size + predicted, minlength=size * size)
        self.matrix += counts.reshape(size, size).cpu()

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
        iou = self.iou
        counted = ~iou.isnan() if self.count_absent else self._truth > 0
        return float(iou[counted].mean())

    @property
    def num_absent(self) -> int:
        """Number of classes that never occur in the ground truth."""
        return int((self._truth == 0).sum())

    @property
    def pix_acc(self) -> float:
        """Share of valid pixels that are right."""
        return float(self.matrix.diagonal().sum() / self.matrix.sum())

    @property
    def freq_weighted_iou(self) -> float:
        """Mean IoU, each class weighted by its share of the ground truth."""
        return float((self.iou.nan_to_num(0) * self._truth).sum() / self._truth.sum())

    @property
    def score(self) -> float:
        """Mean of pixAcc and mIoU, the measure of the ADE20K challenge."""
        return (self.pix_acc + self.mean_iou) / 2

    @property
    def _truth(self) -> Tensor:
        return self.matrix.sum(dim=1).double()

    @property
    def _predicted(self) -> Tensor:
        return self.matrix.sum(dim=0).double()

    def _check(self, name: str, ids: Tensor) -> None:
        bad = (ids < 0) | (ids >= self.num_classes)
        if bad.any():
            raise ValueError(
                f"{name}: id {int(ids[bad][0])} is not in 0..{self.num_classes - 1}: "
                f"map ids to train ids, or to {self.ignore_index} where they don't count"
            )
