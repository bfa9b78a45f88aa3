"""Joint Pyramid Upsampling against its definition in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from encnet.jpu import JPU

Array = NDArray[np.float64]
State = dict[str, Array]


def randomised(module: JPU) -> JPU:
    """Give every parameter and statistic a value that a mistake would show in."""
    for name, tensor in module.state_dict().items():
        if "num_batches" not in name:
            tensor.copy_(torch.rand_like(tensor) + 0.1 if "var" in name else torch.randn_like(tensor) * 0.3)
    return module.double().eval()


def convolved(x: Array, weight: Array, dilation: int = 1) -> Array:
    """(C, H, W), (O, C, k, k) -> (O, H, W): one tap after the other, zeros beyond the border."""
    _, height, width = x.shape
    size = weight.shape[2]
    reach = dilation * (size // 2)
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    out = np.zeros((len(weight), height, width))
    for i in range(size):
        for j in range(size):
            seen = padded[:, i * dilation :, j * dilation :][:, :height, :width]
            out += np.einsum("oc,chw->ohw", weight[:, :, i, j], seen)
    return out


def normalised(x: Array, state: State, prefix: str) -> Array:
    mean, var, weight, bias = (
        state[f"{prefix}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def upsampled(x: Array, height: int, width: int, align_corners: bool) -> Array:
    """Bilinear interpolation, pixel by pixel."""
    out = np.zeros((len(x), height, width))
    for row in range(height):
        for column in range(width):
            (top, bottom, v), (left, right, h) = (
                source(at, size, old, align_corners)
                for at, size, old in ((row, height, x.shape[1]), (column, width, x.shape[2]))
            )
            upper = x[:, top, left] * (1 - h) + x[:, top, right] * h
            lower = x[:, bottom, left] * (1 - h) + x[:, bottom, right] * h
            out[:, row, column] = upper * (1 - v) + lower * v
    return out


def source(at: int, size: int, old: int, align_corners: bool) -> tuple[int, int, float]:
    """The two old pixels between which a new one lies, and how far along."""
    place = at * (old - 1) / (size - 1) if align_corners else max(0.0, (at + 0.5) * old / size - 0.5)
    first = min(int(place), old - 1)
    return first, min(first + 1, old - 1), place - first


def reference(state: State, inputs: list[Array], align_corners: bool) -> Array:
    c3, c4, c5 = inputs
    height, width = c3.shape[1:]
    maps = []
    for index, features in ((2, c5), (1, c4), (0, c3)):
        projected = convolved(features, state[f"project.{index}.conv.weight"])
        positive = normalised(projected, state, f"project.{index}.bn").clip(min=0)
        maps.append(upsampled(positive, height, width, align_corners))
    joint = np.concatenate(maps)
    branches = []
    for index, dilation in enumerate((1, 2, 4, 8)):
        taps = state[f"branches.{index}.depthwise.weight"]  # (C, 1, 3, 3)
        own = np.eye(len(joint))[:, :, None, None] * taps  # each channel sees itself only
        spread = normalised(convolved(joint, own, dilation), state, f"branches.{index}.bn")
        mixed = convolved(spread, state[f"branches.{index}.pointwise.conv.weight"])
        branches.append(normalised(mixed, state, f"branches.{index}.pointwise.bn").clip(min=0))
    return np.concatenate(branches)


@pytest.mark.parametrize("align_corners", [False, True])
@torch.no_grad()
def test_matches_its_definition(align_corners: bool) -> None:
    module = randomised(JPU((3, 4, 5), width=2, align_corners=align_corners))
    maps = [torch.randn(2, c, h, w, dtype=torch.float64) for c, h, w in ((3, 10, 11), (4, 5, 6), (5, 3, 3))]
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    actual = module(*maps)
    assert actual.shape == (2, module.channels, 10, 11)
    for image in range(2):
        expected = reference(state, [m[image].numpy() for m in maps], align_corners)
        np.testing.assert_allclose(actual[image].numpy(), expected, rtol=1e-10, atol=1e-12)


def test_size_of_the_published_one() -> None:
    with torch.device("meta"):
        module = JPU((512, 1024, 2048))
    projections = (512 + 1024 + 2048) * 512 * 9 + 3 * 2 * 512
    branches = 4 * (1536 * 9 + 2 * 1536 + 1536 * 512 + 2 * 512)
    assert sum(parameter.numel() for parameter in module.parameters()) == projections + branches
    assert module.channels == 2048


@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20))
def test_any_size(height: int, width: int) -> None:
    sizes = [(-(-height // step), -(-width // step)) for step in (1, 2, 4)]
    maps = [torch.randn(2, c, *size) for c, size in zip((3, 4, 5), sizes, strict=True)]
    assert JPU((3, 4, 5), width=2).eval()(*maps).shape == (2, 8, height, width)


def test_initial_values_keep_the_scale_of_activations() -> None:
    for name, conv in JPU((64, 64, 64), width=64).named_modules():
        if isinstance(conv, nn.Conv2d):
            reached = conv.out_channels // conv.groups * conv.kernel_size[0] ** 2
            assert conv.weight.std().item() == pytest.approx((2 / reached) ** 0.5, rel=0.05), name


def test_says_which_maps_do_not_fit() -> None:
    module = JPU((3, 4, 5), width=2)
    message = r"JPU: maps of shapes \(1, 3, 4, 4\), \(1, 5, 2, 2\), \(1, 5, 1, 1\) do not fit in_channels=\(3, 4, 5\)"
    with pytest.raises(ValueError, match=message):
        module(torch.zeros(1, 3, 4, 4), torch.zeros(1, 5, 2, 2), torch.zeros(1, 5, 1, 1))
