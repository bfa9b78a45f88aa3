"""The losses of EncNet, each normalised over the global batch: pixel cross-entropy, auxiliary, SE-loss."""

from __future__ import annotations

import math
from operator import lt
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from encnet.model import SegmentationOutput
from encnet.upsampled_loss import upsampled_cross_entropy


class BatchTotals(NamedTuple):
    """What the losses of a global batch are divided by; float64 scalars on the labels' device."""

    weight: Tensor
    """Sum over valid pixels of the weight of their class (their number, where classes have no weights)."""

    images: Tensor
    """Number of images."""


class LossParts(NamedTuple):
    """This rank's contribution to the losses of the global batch: summed over ranks they are the losses."""

    total: Tensor
    """pixel + aux_weight * aux + se_weight * se: the one to differentiate."""

    pixel: Tensor
    """Cross-entropy of the main head."""

    aux: Tensor
    """Cross-entropy of the auxiliary head, unweighted; 0 without one."""

    se: Tensor
    """Binary cross-entropy of the classes present, unweighted; 0 without an SE branch."""


class SegmentationLoss(nn.Module):
    """Pixel cross-entropy + aux_weight * auxiliary cross-entropy + se_weight * SE-loss (CVPR 2018, section 3.2).

    Cross-entropy is sum(w_y * nll) / sum(w_y) over the valid pixels of the global batch. The SE-loss is the mean, over
    the global batch's images and the classes, of the binary cross-entropy against "class present in the label".

    Args:
        aux_weight: 0.2 in PyTorch-Encoding, 0.4 in mmsegmentation.
        se_weight: 0.2 in the paper.
        class_weights: (num_classes) or None.
        ignore_index: label id of pixels that count nowhere.
        validate: check the label ids of every batch; None means only on the CPU, as on a GPU the check waits for it.
        align_corners: how logits smaller than the labels are brought to their size; give the model config's.

    Raises:
        ValueError: a weight that is negative or not finite.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        aux_weight: float = 0.2,
        se_weight: float = 0.2,
        class_weights: Tensor | None = None,
        ignore_index: int = 255,
        validate: bool | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        for name, weight in (("aux_weight", aux_weight), ("se_weight", se_weight)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name}: {weight}: give a finite number of at least 0")
        if class_weights is not None and not ((class_weights >= 0) & class_weights.isfinite()).all():
            raise ValueError(f"class_weights: {class_weights.tolist()}: give finite numbers of at least 0")
        self.aux_weight = aux_weight
        self.se_weight = se_weight
        self.ignore_index = ignore_index
        self.validate = validate
        self.align_corners = align_corners
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, output: SegmentationOutput, labels: Tensor, totals: BatchTotals | None = None) -> LossParts:
        """Compute this rank's part of the losses. A batch without images or valid pixels gives 0, with a graph.

        Args:
            output: logits of the labels' size, or smaller (the model's `upsample=False`): cheaper, and the same.
            labels: (B, H, W) uint8 or int64.
            totals: of the global batch; None computes them with `batch_totals`, a collective where distributed.

        Raises:
            ValueError: labels smaller than the logits, or, where they are checked, ids out of range.
        """
        logits = output.logits
        num_classes = logits.shape[1]
        if labels.dim() != 3 or len(labels) != len(logits) or any(map(lt, labels.shape[1:], logits.shape[2:])):
            raise ValueError(
                f"labels: shape {tuple(labels.shape)} does not fit logits of shape {tuple(logits.shape)}: "
                "give (B, H, W) labels of the images' size"
            )
        if labels.is_floating_point():
            raise ValueError(f"labels: dtype {labels.dtype} holds no class ids: give uint8 or int64")
        labels = labels.long()
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            raise ValueError(f"class_weights: {len(self.class_weights)} of them: give one for each of {num_classes}")
        if self.validate or (self.validate is None and labels.device.type == "cpu"):
            check_labels(labels, num_classes, self.ignore_index)
        if totals is None:
            totals = batch_totals(labels, self.class_weights, self.ignore_index)
        pixel = self._cross_entropy(logits, labels, totals)
        aux, se = torch.zeros_like(pixel), torch.zeros_like(pixel)
        if output.aux_logits is not None:
            aux = self._cross_entropy(output.aux_logits, labels, totals)
        if output.se_logits is not None:
            se = self._presence(output.se_logits, labels, totals)
        return LossParts(pixel + self.aux_weight * aux + self.se_weight * se, pixel, aux, se)

    def _cross_entropy(self, logits: Tensor, labels: Tensor, totals: BatchTotals) -> Tensor:
        logits = _at_least_float32(logits)
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        if logits.shape[2:] != labels.shape[1:]:
            summed = upsampled_cross_entropy(logits, labels, weights, self.ignore_index, self.align_corners)
        else:
            summed = F.cross_entropy(logits, labels, weight=weights, ignore_index=self.ignore_index, reduction="sum")
        return summed / _divisor(totals.weight, logits.dtype)

    def _presence(self, se_logits: Tensor, labels: Tensor, totals: BatchTotals) -> Tensor:
        """SE-loss; (B, S, num_classes) logits of S branches are summed over the branches."""
        se_logits = _at_least_float32(se_logits)
        num_classes = se_logits.shape[-1]
        targets = classes_present(labels, num_classes, self.ignore_index).to(se_logits.dtype)  # (B, num_classes)
        if se_logits.dim() == 3:
            targets = targets.unsqueeze(1).expand_as(se_logits)
        summed = F.binary_cross_entropy_with_logits(se_logits, targets, reduction="sum")
        return summed / (_divisor(totals.images, se_logits.dtype) * num_classes)


def batch_totals(
    labels: Tensor,
    class_weights: Tensor | None = None,
    ignore_index: int = 255,
    group: dist.ProcessGroup | None = None,
) -> BatchTotals:
    """Sum the weights of valid pixels and the images over all ranks: one collective, none where not distributed.

    Args:
        labels: (B, H, W) uint8 or int64, this rank's; B may be 0. With gradient accumulation, those of all micro-steps.
        class_weights: (num_classes) or None.
        ignore_index: label id of pixels that don't count.
        group: ranks that share the batch, by default all.

    Raises:
        ValueError: on the CPU and with class weights, a label id without a weight.
    """
    labels = labels.long()  # a uint8 would take an ignore_index of -100 for 156
    valid = labels != ignore_index
    if class_weights is None:
        weight = valid.sum()
    else:
        if labels.device.type == "cpu":
            check_labels(labels, len(class_weights), ignore_index)
        ids = labels.where(valid, 0)
        weight = (class_weights.to(labels.device)[ids] * valid).sum(dtype=torch.float64)
    totals = torch.stack([weight.double(), torch.full_like(weight, len(labels), dtype=torch.float64)])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(totals, group=group)
    return BatchTotals(weight=totals[0], images=totals[1])


def classes_present(labels: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Return which classes occur in each label: (B, H, W) ids -> (B, num_classes) bool, on the labels' device."""
    ids = labels.long().flatten(1)  # (B, H * W)
    ids = ids.where(ids != ignore_index, num_classes)
    present = torch.zeros(len(labels), num_classes + 1, dtype=torch.bool, device=labels.device)
    return present.scatter_(1, ids, True)[:, :num_classes]


def check_labels(labels: Tensor, num_classes: int, ignore_index: int = 255) -> None:
    """Check that all ids are below num_classes or ignore_index. Waits for the device.

    Raises:
        ValueError: an id out of range.
    """
    labels = labels.long()
    bad = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
    if bad.any():
        raise ValueError(
            f"labels: id {int(labels[bad][0])} is not in 0..{num_classes - 1} nor the ignored {ignore_index}: "
            "map the labels to train ids or raise num_classes"
        )


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _divisor(total: Tensor, dtype: torch.dtype) -> Tensor:
    """The total, or 1 where it is 0: nothing was summed then, and the quotient is 0."""
    return torch.where(total > 0, total, torch.ones_like(total)).to(dtype)
