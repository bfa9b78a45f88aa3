"""The cross-entropy of upsampled logits in strips against interpolate + cross_entropy, forward and backward.

python -m tests.benchmarks.loss [--small]
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from encnet.upsampled_loss import upsampled_cross_entropy
from tests.benchmarks import measure

FULL = (2, 150, 60, 480)
SMALL = (1, 5, 4, 32)


def whole(logits: Tensor, labels: Tensor) -> Tensor:
    """Upsampled logits in memory, as mmsegmentation and PyTorch-Encoding do it."""
    upsampled = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(upsampled, labels.long(), ignore_index=255, reduction="sum")


FORMS = {"interpolate + cross_entropy": whole, "in strips": upsampled_cross_entropy}


def prepare(form: str, sizes: tuple[int, int, int, int]) -> measure.Call:
    """Forward and backward of a form for (batch, classes, side of the logits, side of the labels)."""
    batch, classes, small, side = sizes
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, small, small, generator=generator).requires_grad_()
    labels = torch.randint(0, classes, (batch, side, side), generator=generator, dtype=torch.uint8)
    labels[:, : side // 8] = 255

    def call() -> None:
        logits.grad = None
        FORMS[form](logits, labels).backward()

    FORMS[form](logits[:, :, :2, :2], labels[:, :8, :8]).backward()
    return call


def tables(small: bool) -> Iterable[Table]:
    """Time and memory of both forms."""
    sizes = SMALL if small else FULL
    batch, classes, side, full_side = sizes
    title = f"Loss, forward + backward, B={batch}, {classes} classes, {side}x{side} -> {full_side}x{full_side}, float32"
    seconds = measure.interleaved_medians({form: prepare(form, sizes) for form in FORMS}, rounds=1 if small else 7)
    yield measure.compare(title, seconds, {form: measure.extra_peak_bytes(prepare, form, sizes) for form in FORMS})


if __name__ == "__main__":
    measure.main(__doc__, tables)
