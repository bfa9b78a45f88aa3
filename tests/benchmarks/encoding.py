"""The Encoding layer against the textbook broadcast form: time and memory of forward and backward, side by side.

python -m tests.benchmarks.encoding [--small]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from encnet import Encoding

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


def measure_seconds(sizes: tuple[int, int, int, int], rounds: int) -> dict[str, float]:
    """Median seconds of each form, the two in turn."""
    batch, descriptors, codes, channels = sizes
    x = torch.randn(batch, descriptors, channels).relu().requires_grad_()
    layer = Encoding(channels, codes)
    times: dict[str, list[float]] = {"broadcast": [], "linear": []}
    for number in range(rounds + 1):
        for form, seconds in times.items():
            began = time.perf_counter()
            forward_backward(form, x, layer)
            if number:  # the first round warms up
                seconds.append(time.perf_counter() - began)
    return {form: statistics.median(seconds) for form, seconds in times.items()}


def measure_peak_bytes(form: str, sizes: tuple[int, int, int, int]) -> int:
    """What one forward and backward adds to the peak memory of a fresh process."""
    command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "tests.benchmarks.encoding"]
    done = subprocess.run([*command, "--peak-of", form, *map(str, sizes)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def _print_peak(form: str, sizes: tuple[int, int, int, int]) -> None:
    batch, descriptors, codes, channels = sizes
    x = torch.randn(batch, descriptors, channels).relu().requires_grad_()
    layer = Encoding(channels, codes)
    forward_backward(form, x[:1, :8].detach().requires_grad_(), layer)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forward_backward(form, x, layer)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def compare(sizes: tuple[int, int, int, int], rounds: int) -> Table:
    """Both forms in one table, the ratio last."""
    seconds = measure_seconds(sizes, rounds)
    peak = {form: measure_peak_bytes(form, sizes) for form in seconds}
    batch, descriptors, codes, channels = sizes
    table = Table(title=f"Encoding, forward + backward, B={batch} N={descriptors} K={codes} C={channels}, float32")
    for heading in ("form", "seconds (median)", "extra peak MiB"):
        table.add_column(heading, justify="left" if heading == "form" else "right")
    for form in seconds:
        table.add_row(form, f"{seconds[form]:.4f}", f"{peak[form] / 2**20:.1f}")
    memory = f"1/{peak['broadcast'] / peak['linear']:.0f}" if peak["linear"] else "-"
    table.add_row("linear / broadcast", f"1/{seconds['broadcast'] / seconds['linear']:.0f}", memory)
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--peak-of", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.peak_of:
        form, *numbers = arguments.peak_of
        batch, descriptors, codes, channels = map(int, numbers)
        _print_peak(form, (batch, descriptors, codes, channels))
        return
    Console().print(compare(SMALL if arguments.small else FULL, rounds=1 if arguments.small else 5))


if __name__ == "__main__":
    main()
