"""Prediction: whole, sliding, multi-scale and flipped, against the plain forward pass."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from encnet import ModelConfig, SegmentationNet, build_model, predict
from encnet.inference import window_starts


@pytest.fixture
def model(small: ModelConfig) -> SegmentationNet:
    model = build_model(small)
    # Larger logits than at the start of training, so that a mistake moves the probabilities.
    torch.nn.init.normal_(model.head.classifier.weight, std=1.0)
    return model.eval()


@torch.no_grad()
def softmax_of(model: SegmentationNet, images: Tensor) -> Tensor:
    return torch.softmax(model(images).logits, dim=1)


def test_one_scale_is_the_plain_forward(model: SegmentationNet) -> None:
    images = torch.randn(2, 3, 50, 67)
    probabilities = predict(model, images)
    assert probabilities.shape == (2, 5, 50, 67)
    assert probabilities.dtype == torch.float32
    assert torch.equal(probabilities, softmax_of(model, images))
    assert torch.equal(predict(model, images, crop_size=128), probabilities)


def test_flip_averages_both_views(model: SegmentationNet) -> None:
    images = torch.randn(1, 3, 40, 48)
    expected = (softmax_of(model, images) + softmax_of(model, images.flip(3)).flip(3)) / 2
    torch.testing.assert_close(predict(model, images, flip=True), expected)
    torch.testing.assert_close(predict(model, images.flip(3), flip=True).flip(3), expected)


def test_scales_average_probabilities(model: SegmentationNet) -> None:
    images = torch.randn(1, 3, 64, 96)
    larger = F.interpolate(images, size=(96, 144), mode="bilinear")
    resized = F.interpolate(softmax_of(model, larger), size=(64, 96), mode="bilinear")
    expected = (softmax_of(model, images) + resized) / 2
    torch.testing.assert_close(predict(model, images, scales=(1.0, 1.5)), expected)


@pytest.mark.parametrize(("height", "width"), [(100, 70), (40, 130), (64, 65)])
def test_windows_are_averaged_pixel_by_pixel(model: SegmentationNet, height: int, width: int) -> None:
    images = torch.randn(1, 3, height, width)
    views: list[Tensor] = []
    for top in {min(top, max(height - 64, 0)) for top in range(0, height, 42)}:
        for left in {min(left, max(width - 64, 0)) for left in range(0, width, 42)}:
            view = torch.full((5, height, width), torch.nan)
            crop = images[..., top : top + 64, left : left + 64]
            view[:, top : top + 64, left : left + 64] = softmax_of(model, crop)[0]
            views.append(view)
    torch.testing.assert_close(predict(model, images, crop_size=64)[0], torch.stack(views).nanmean(dim=0))


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 100))
def test_windows_cover_everything_and_stay_inside(length: int, window: int, stride: int) -> None:
    stride = min(stride, window)
    starts = window_starts(length, window, stride)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - window)
    assert all(0 < b - a <= stride for a, b in pairwise(starts))


@pytest.mark.parametrize("size", [(1, 1), (20, 90), (33, 31)])
def test_images_below_the_models_least_size(model: SegmentationNet, size: tuple[int, int]) -> None:
    probabilities = predict(model, torch.randn(2, 3, *size), scales=(0.5, 1.0), flip=True, crop_size=48)
    assert probabilities.shape == (2, 5, *size)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, *size))


def test_modes_are_restored_and_statistics_untouched(model: SegmentationNet) -> None:
    model.train()
    model.backbone.bn1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    result = predict(model, torch.randn(1, 3, 40, 40))
    assert not result.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="not floating point"):
        predict(model, torch.zeros(1, 3, 40, 40, dtype=torch.uint8))
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, r"scales: \(\): give at least one, all above 0"),
        ({"scales": (1.0, 0.0)}, r"scales: \(1.0, 0.0\): give at least one, all above 0"),
        ({"stride": 20}, "stride: 20 without a crop_size"),
        ({"crop_size": 64, "stride": 65}, "stride: 65 with crop_size 64: give 1 <= stride <= crop_size"),
        ({"crop_size": 16}, "crop_size: 16 is too small: give at least 32"),
    ],
)
def test_says_what_is_wrong(model: SegmentationNet, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(model, torch.randn(1, 3, 40, 40), **options)
