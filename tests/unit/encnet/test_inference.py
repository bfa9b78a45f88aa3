"""Prediction: whole, sliding, multi-scale and flipped, against the plain forward pass and a float64 reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from encnet import (
    ModelConfig,
    SegmentationNet,
    SegmentationOutput,
    build_model,
    predict,
    predict_classes,
    predict_with_confidence,
)
from encnet.inference import upsampled_argmax, upsampled_best


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
    torch.testing.assert_close(probabilities, softmax_of(model, images))
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
    # Interpolation weights are rounded to float32 earlier there than here.
    torch.testing.assert_close(predict(model, images, scales=(1.0, 1.5)), expected, atol=1e-4, rtol=0)


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


def bilinear(maps: np.ndarray, axis: int, size: int, align_corners: bool) -> np.ndarray:
    """One axis resized to `size`, pixel by pixel."""
    old, pixels = maps.shape[axis], []
    for i in range(size):
        at = i * (old - 1) / max(1, size - 1) if align_corners else min(max((i + 0.5) * old / size - 0.5, 0), old - 1)
        low = min(math.floor(at), old - 1)
        high = min(low + 1, old - 1)
        pixels.append((1 - (at - low)) * maps.take(low, axis) + (at - low) * maps.take(high, axis))
    return np.stack(pixels, axis)


def window_softmax(model: SegmentationNet, window: np.ndarray) -> np.ndarray:
    """(3, h, w) -> (C, h, w) float64."""
    with torch.no_grad():
        logits = model(torch.from_numpy(window[None].copy())).logits[0].numpy()
    exponentials = np.exp(logits - logits.max(0))
    return exponentials / exponentials.sum(0)


def reference(
    model: SegmentationNet, image: np.ndarray, scales: tuple[float, ...], flip: bool, crop: int
) -> np.ndarray:
    """(3, H, W) float64 -> (C, H, W): the mean over scales of the mean over flips of the mean over windows."""
    align, results = model.config.align_corners, []
    height, width = image.shape[1:]
    stride = int(2 / 3 * crop)
    for scale in scales:
        scaled = bilinear(bilinear(image, 1, round(height * scale), align), 2, round(width * scale), align)
        tall, wide = scaled.shape[1:]
        views = []
        for top in sorted({min(top, max(tall - crop, 0)) for top in range(0, tall, stride)}):
            for left in sorted({min(left, max(wide - crop, 0)) for left in range(0, wide, stride)}):
                window = scaled[:, top : top + crop, left : left + crop]
                probabilities = window_softmax(model, window)
                if flip:
                    probabilities = (probabilities + window_softmax(model, window[:, :, ::-1])[:, :, ::-1]) / 2
                view = np.full((len(probabilities), tall, wide), np.nan)
                view[:, top : top + crop, left : left + crop] = probabilities
                views.append(view)
        results.append(bilinear(bilinear(np.nanmean(views, 0), 1, height, align), 2, width, align))
    return np.mean(results, 0)


@pytest.mark.parametrize(
    ("size", "scales", "flip", "align_corners"),
    [
        ((100, 70), (1.0,), True, False),
        ((45, 101), (0.75, 1.0, 1.5), True, False),
        ((131, 45), (0.8, 1.3), False, True),
        ((67, 60), (1.5, 0.6), True, True),
    ],
)
def test_equals_the_reference(
    small: ModelConfig, size: tuple[int, int], scales: tuple[float, ...], flip: bool, align_corners: bool
) -> None:
    model = build_model(replace(small, align_corners=align_corners)).double().eval()
    nn.init.normal_(model.head.classifier.weight, std=1.0)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = np.stack([reference(model, image.numpy(), scales, flip, 64) for image in images])
    options: dict[str, Any] = {"scales": scales, "flip": flip, "crop_size": 64}
    probabilities = predict(model, images, **options)
    torch.testing.assert_close(probabilities, torch.from_numpy(expected).float(), atol=1e-6, rtol=0)
    first, second = np.sort(expected, 1)[:, -1], np.sort(expected, 1)[:, -2]
    right = predict_classes(model, images, **options).numpy() == expected.argmax(1)
    assert (right | (first - second < 1e-5)).all()


def test_half_precision_images(model: SegmentationNet) -> None:
    images = torch.randn(1, 3, 70, 90)
    options: dict[str, Any] = {"scales": (0.75, 1.0), "flip": True, "crop_size": 64}
    expected = predict(model, images, **options)
    halves = predict(model.bfloat16(), images.bfloat16(), **options)
    assert halves.dtype == torch.float32
    assert (halves - expected).abs().mean() < 0.05


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(32, 32), (33, 150), (127, 64), (101, 89)])
def test_classes_of_one_view_are_the_plain_forwards(
    model: SegmentationNet, size: tuple[int, int], layout: torch.memory_format
) -> None:
    model.to(memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(3, 3, *size)
    with torch.no_grad():
        expected = model(images).logits.argmax(1)
    for options in ({}, {"crop_size": 150}):
        classes = predict_classes(model, images, **options)  # type: ignore[arg-type]
        assert classes.dtype == torch.uint8
        assert torch.equal(classes, expected)


@pytest.mark.parametrize(("size", "stride"), [((200, 290), None), ((40, 410), 30), ((300, 40), 64), ((300, 300), 64)])
def test_classes_are_the_argmax_of_the_probabilities(
    model: SegmentationNet, size: tuple[int, int], stride: int | None
) -> None:
    images = torch.randn(1, 3, *size)
    options: dict[str, Any] = {"scales": (0.5, 1.0), "flip": True, "crop_size": 64, "stride": stride, "window_batch": 8}
    probabilities = predict(model, images, **options)
    first, second = probabilities.topk(2, dim=1).values.unbind(1)
    ties = first - second < 1e-5
    assert ((predict_classes(model, images, **options) == probabilities.argmax(1)) | ties).all()
    assert ties.float().mean() < 0.01


def test_a_scaled_image_is_not_the_plain_one(model: SegmentationNet) -> None:
    images = torch.randn(4, 3, 96, 96)
    classes = predict_classes(model, images, scales=(1.25,), crop_size=96)
    expected = predict(model, images, scales=(1.25,), crop_size=96).argmax(1)
    assert (classes == expected).float().mean() > 0.999
    assert (classes == predict_classes(model, images)).float().mean() < 0.999


@pytest.mark.parametrize("size", [(130, 100), (40, 150)])
def test_batches_of_windows_change_nothing(model: SegmentationNet, size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    options: dict[str, Any] = {"scales": (0.5, 1.0), "flip": True, "crop_size": 64}
    expected = predict(model, images, **options)
    assert max(seen) == 2
    for window_batch in (1, 3, 100):
        seen.clear()
        result = predict(model, images, window_batch=window_batch, **options)
        assert max(seen) == min(window_batch, 4 * len(range(0, size[1] - 64 + 42, 42)))
        torch.testing.assert_close(result, expected)


class Pooled(nn.Module):
    """The least that can be called a segmentation network."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, 7, 1)

    def forward(self, images: Tensor) -> SegmentationOutput:
        logits = self.classifier(F.avg_pool2d(images, 8, ceil_mode=True))
        return SegmentationOutput(F.interpolate(logits, size=images.shape[2:], mode="bilinear"), None, None)


class LargestTensor(TorchDispatchMode):
    """Sees every tensor that is allocated; `elements` are those of the largest in floating point."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in torch.utils._pytree.tree_leaves(args) if isinstance(t, Tensor)}
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in given:
                    self.elements = max(self.elements, storage.nbytes() // tensor.element_size())
        return result


def test_memory_is_bounded_by_the_window() -> None:
    model = Pooled()
    largest = []
    for size in ((80, 140), (140, 210)):
        images = torch.randn(1, 3, *size)
        with LargestTensor() as seen:
            predict_classes(model, images, scales=(0.5, 1.25), flip=True, crop_size=32, window_batch=4)
        largest.append(seen.elements)
    band = 7 * (32 / 0.5 + 2) * 4 * 32
    assert max(largest) <= band < 7 * 80 * 140
    with LargestTensor() as seen:
        predict(model, images, crop_size=64)
    assert seen.elements >= 7 * 140 * 210


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_upsampled_argmax(align_corners: bool, layout: torch.memory_format) -> None:
    logits = torch.randn(3, 9, 7, 11).to(memory_format=layout)
    exact = F.interpolate(logits.double(), size=(50, 83), mode="bilinear", align_corners=align_corners)
    first, second = exact.topk(2, dim=1).values.unbind(1)
    classes = upsampled_argmax(logits, (50, 83), align_corners)
    assert ((classes == exact.argmax(1)) | (first - second < 1e-5)).all()
    assert torch.equal(classes, F.interpolate(logits, (50, 83), mode="bilinear", align_corners=align_corners).argmax(1))


def test_of_equal_logits_the_first_class_wins() -> None:
    logits = torch.zeros(1, 300, 4, 4)
    assert upsampled_argmax(logits, (9, 9)).eq(0).all()
    logits[:, [257, 299]] = 1
    classes = upsampled_argmax(logits.half(), (8, 8))
    assert classes.dtype == torch.int32
    assert classes.eq(257).all()


@pytest.mark.parametrize("align_corners", [False, True])
def test_upsampled_best_is_the_largest_of_the_softmax(align_corners: bool) -> None:
    logits = 4 * torch.randn(3, 9, 7, 11)
    exact = F.interpolate(logits.double(), size=(50, 83), mode="bilinear", align_corners=align_corners).softmax(1)
    classes, confidence = upsampled_best(logits, (50, 83), align_corners)
    assert torch.equal(classes, upsampled_argmax(logits, (50, 83), align_corners))
    torch.testing.assert_close(confidence, exact.amax(1).float())
    assert upsampled_best(torch.full((1, 3, 2, 2), 1e4), (4, 4))[1].allclose(torch.tensor(1 / 3))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window_batch": 1},
        {"flip": True},
        {"scales": (0.5, 1.25), "crop_size": 48},
        {"crop_size": 40, "stride": 20},
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (20, 90), (61, 230)])
def test_confidence_is_the_probability_of_the_class(
    model: SegmentationNet, size: tuple[int, int], options: dict[str, Any]
) -> None:
    images = torch.randn(2, 3, *size)
    classes, confidence = predict_with_confidence(model, images, **options)
    assert torch.equal(classes, predict_classes(model, images, **options))
    assert confidence.dtype == torch.float32
    torch.testing.assert_close(confidence, predict(model, images, **options).amax(1))


@pytest.mark.parametrize("size", [(1, 1), (20, 90), (33, 31)])
def test_images_below_the_models_least_size(model: SegmentationNet, size: tuple[int, int]) -> None:
    probabilities = predict(model, torch.randn(2, 3, *size), scales=(0.5, 1.0), flip=True, crop_size=48)
    assert probabilities.shape == (2, 5, *size)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, *size))


def test_a_wrapped_model_keeps_its_config() -> None:
    config = ModelConfig(num_classes=3, backbone="resnet18", output_stride=32, head_channels=8, align_corners=True)
    torch.manual_seed(0)
    model = build_model(config)
    images = torch.randn(1, 3, 70, 90)
    expected = predict_classes(model, images)
    assert torch.equal(predict_classes(nn.DataParallel(model), images), expected)


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
        ({"window_batch": 0}, "window_batch: 0 is too small: give at least 1"),
        ({"images": torch.randn(3, 40, 40)}, r"images: shape \(3, 40, 40\) is not \(B, 3, H, W\)"),
        (
            {"images": torch.randn(0, 3, 40, 40)},
            r"images: shape \(0, 3, 40, 40\) holds nothing: give at least one image",
        ),
    ],
)
@pytest.mark.parametrize("function", [predict, predict_classes, predict_with_confidence])
def test_says_what_is_wrong(model: SegmentationNet, function: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(model, **{"images": torch.randn(1, 3, 40, 40), **options})
