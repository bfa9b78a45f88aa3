"""The Encoding layer against the textbook broadcast form: time and memory of forward and backward, side by side.

python -m tests.benchmarks.encoding [--small]
"""

from __future__ import annotations

from functools import partial

import torch
from rich.table import Table
from torch import Tensor

from encnet import Encoding
from tests.benchmarks import measure

FULL = (4, 3600, 32, 512)
SMALL = (1, 64, 4, 16)


def broadcast_form(x: Tensor, codewords: Tensor, scale: Tensor) -> Tensor:
    """(B, N, C) -> (B, K, C) with all B x N x K x C residuals in memory, as the paper writes it."""
    residuals = x[:, :, None] - codewords  # (B, N, K, C)
    weights = torch.softmax(scale * residuals.square().sum(3), dim=2)  # (B, N, K)
    return (weights[..., None] * residuals).sum(1)


def forward_backward(form: str, x: Tensor, layer: Encoding) -> None:
    """One forward and backward of either form."""
    out = layer(x) if form == "linear" else broadcast_form(x, layer.codewords, layer.scale)
    out.sum().backward()


def prepare(form: str, sizes: tuple[int, int, int, int]) -> measure.Call:
    """The forward and backward of one form at (B, N, K, C), warmed up at a small size."""
    batch, descriptors, codes, channels = sizes
    x = torch.randn(batch, descriptors, channels).relu().requires_grad_()
    layer = Encoding(channels, codes)
    forward_backward(form, x[:1, :8].detach().requires_grad_(), layer)
    return partial(forward_backward, form, x, layer)


def tables(small: bool) -> list[Table]:
    """Both forms in one table."""
    sizes = SMALL if small else FULL
    forms = ("broadcast", "linear")
    seconds = measure.interleaved_medians({form: prepare(form, sizes) for form in forms}, rounds=1 if small else 5)
    peaks = {form: measure.extra_peak_bytes(prepare, form, sizes) for form in forms}
    batch, descriptors, codes, channels = sizes
    title = f"Encoding, forward + backward, B={batch} N={descriptors} K={codes} C={channels}, float32"
    return [measure.compare(title, seconds, peaks)]


if __name__ == "__main__":
    measure.main(__doc__, tables)
