"""The benchmarks run, and what they compare agrees."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from encnet import Encoding
from tests.benchmarks import decode, encoding, evaluation, loss, measure, order, train_step


def test_the_two_forms_of_the_encoding_layer_agree() -> None:
    layer = Encoding(16, 4)
    x = torch.randn(2, 50, 16)
    torch.testing.assert_close(layer(x), encoding.broadcast_form(x, layer.codewords, layer.scale))


def test_the_two_confusion_matrices_agree() -> None:
    labels = evaluation.made_up_labels(2, 5, 64)
    intersection, union = evaluation.three_histograms(*labels, 5)
    np.testing.assert_allclose(evaluation.one_bincount(*labels, 5).iou, intersection / union)


def test_the_forms_of_decoding_agree() -> None:
    """Labels but for the part of a pixel that a crop of the whole image may be off; images as interpolated there."""
    for sample in decode.coded_samples(2, (128, 160), (96, 96)):
        image, label = decode.region_only(sample, (96, 96))
        for form in (decode.pillow_whole, decode.opencv_whole):
            other_image, other_label = form(sample, (96, 96))
            assert np.mean(other_label == label) > 0.9
            assert np.abs(other_image.astype(int) - image).mean() < 12


@pytest.mark.parametrize("benchmark", [decode, encoding, evaluation, loss, order, train_step])
def test_a_benchmark_fills_its_tables(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "extra_peak_bytes", _call_here)
    tables = list(benchmark.tables(small=True))
    assert tables
    assert all(table.row_count >= 2 for table in tables)


def _call_here(prepare: Callable[..., measure.Call], *arguments: object) -> int:
    """Run what would be measured, without the seconds that a process takes to start."""
    prepare(*arguments)()
    return 1


def _prepare(mebibytes: int) -> measure.Call:
    return lambda: torch.ones(mebibytes, 2**18)


def test_peak_memory_is_that_of_the_call_alone() -> None:
    held = torch.ones(200, 2**18)  # must not count: it is this process's
    assert 60 * 2**20 < measure.extra_peak_bytes(_prepare, 64) < 80 * 2**20
    del held
