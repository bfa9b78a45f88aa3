"""A train step of EncNet-R50, 150 classes, batch 2, against mmsegmentation's way to compute it, and against the FCN.

python -m tests.benchmarks.train_step [--small]
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

from encnet import ModelConfig, SegmentationLoss, SegmentationNet, build_model
from tests.benchmarks import measure
from tests.benchmarks.encoding import broadcast_form

MMSEG, ENCNET, BF16, FCN = "as mmsegmentation", "encnet", "encnet, bf16 autocast", "fcn, the same head"
BATCH = 2


class BroadcastEncoding(nn.Module):
    """The Encoding layer with every residual in memory, as mmsegmentation's."""

    def __init__(self, codewords: nn.Parameter, scale: nn.Parameter) -> None:
        super().__init__()
        self.codewords = codewords
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, C)."""
        return broadcast_form(x.flatten(2).transpose(1, 2), self.codewords, self.scale)


def mmseg_loss(model: SegmentationNet, images: Tensor, labels: Tensor) -> Tensor:
    """Both heads' logits upsampled whole, cross-entropy pixel by pixel, the SE targets image by image."""
    output = model(images, upsample=False)
    pixel, aux = (
        F.cross_entropy(
            F.interpolate(logits, size=labels.shape[1:], mode="bilinear"),
            labels.long(),
            ignore_index=255,
            reduction="none",
        ).mean()
        for logits in (output.logits, output.aux_logits)
    )
    present = torch.stack([torch.histc(label.float(), 150, 0, 149) > 0 for label in labels]).float()
    return pixel + 0.4 * aux + 0.2 * F.binary_cross_entropy_with_logits(output.se_logits, present)


def step(form: str, model: SegmentationNet, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """Forward, loss, backward and the optimizer's step."""
    optimizer.zero_grad(set_to_none=True)
    if form == MMSEG:
        loss = mmseg_loss(model, images, labels)
    else:
        with torch.autocast("cpu", torch.bfloat16) if form == BF16 else nullcontext():
            output = model(images, upsample=False)
        loss = SegmentationLoss(aux_weight=0.4)(output, labels).total
    loss.backward()
    optimizer.step()


def prepare(form: str, side: int, backbone: str) -> measure.Call:
    """A train step of a form on images of side x side, after one on smaller images."""
    torch.manual_seed(0)
    config = ModelConfig.preset("mmseg", backbone=backbone, arch="fcn" if form == FCN else "encnet")
    model = build_model(config)
    if form == MMSEG:
        assert model.head.context is not None
        encoding = model.head.context.encoding
        model.head.context.encoding = BroadcastEncoding(encoding.codewords, encoding.scale)  # type: ignore[assignment]
    if form == BF16:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(BATCH, 3, side, side)
    if form == BF16:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, config.num_classes, (BATCH, side, side), dtype=torch.uint8)
    small = max(32, side // 8)
    step(form, model, optimizer, images[..., :small, :small], labels[:, :small, :small])
    return partial(step, form, model, optimizer, images, labels)


def tables(small: bool) -> Iterable[Table]:
    """Against mmsegmentation's way at two sizes, and against the FCN."""
    backbone, rounds = ("resnet18", 1) if small else ("resnet50", 3)
    for side in (64,) if small else (240, 480):
        forms = [MMSEG, ENCNET] if side == 480 else [MMSEG, ENCNET, BF16]
        calls = {form: prepare(form, side, backbone) for form in forms}
        peaks = {form: measure.extra_peak_bytes(prepare, form, side, backbone) for form in forms}
        title = f"Train step, {backbone}, batch {BATCH}, {side}x{side}"
        yield measure.compare(title, measure.interleaved_medians(calls, rounds), peaks)
    side = 64 if small else 240
    calls = {form: prepare(form, side, backbone) for form in (FCN, ENCNET)}
    # A difference of a few per cent takes more rounds to tell from noise.
    seconds = measure.interleaved_medians(calls, rounds if small else 11)
    yield measure.compare(f"Context module and SE branch, {side}x{side}", seconds)


if __name__ == "__main__":
    measure.main(__doc__, tables)
