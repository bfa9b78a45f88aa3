"""The benchmarks run, and what they compare agrees."""

from __future__ import annotations

import torch

from encnet import Encoding
from tests.benchmarks import encoding


def test_the_two_forms_of_the_encoding_layer_agree() -> None:
    layer = Encoding(16, 4)
    x = torch.randn(2, 50, 16)
    torch.testing.assert_close(layer(x), encoding.broadcast_form(x, layer.codewords, layer.scale))


def test_the_encoding_benchmark_fills_its_table() -> None:
    table = encoding.compare(encoding.SMALL, rounds=1)
    assert table.row_count == 3
