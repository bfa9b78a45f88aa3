"""The Encoding layer against its definition, written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encnet import Encoding


def reference(x: Tensor, codewords: Tensor, scale: Tensor) -> Tensor:
    """e_k = sum_i softmax_k(scale_k * ||x_i - d_k||^2) * (x_i - d_k), with every residual in memory."""
    residuals = x[:, :, None, :] - codewords[None, None]  # (B, N, K, C)
    weights = torch.softmax(scale * residuals.pow(2).sum(dim=3), dim=2)  # (B, N, K)
    return (weights[..., None] * residuals).sum(dim=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.integers(1, 20), st.integers(1, 6), st.integers(1, 7), st.integers(0, 2**31))
def test_matches_the_definition_for_all_shapes(batch: int, length: int, codes: int, channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = Encoding(channels, codes).double()
    x = torch.randn(batch, length, channels, dtype=torch.float64)
    torch.testing.assert_close(layer(x), reference(x, layer.codewords, layer.scale), rtol=1e-10, atol=1e-10)


def test_feature_map_and_descriptors_agree() -> None:
    layer = Encoding(6, 3)
    x = torch.randn(2, 6, 4, 5)
    expected = layer(x.permute(0, 2, 3, 1).reshape(2, 20, 6))
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), expected)


def test_gradients_match_the_definition() -> None:
    layer = Encoding(5, 4).double()
    x = torch.randn(2, 9, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 4, 5, dtype=torch.float64)
    inputs = (x, layer.codewords, layer.scale)
    actual = torch.autograd.grad((layer(x) * weights).sum(), inputs)
    expected = torch.autograd.grad((reference(*inputs) * weights).sum(), inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_gradcheck() -> None:
    layer = Encoding(3, 2).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)

    def encode(x: Tensor, codewords: Tensor, scale: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"codewords": codewords, "scale": scale}, (x,))

    assert torch.autograd.gradcheck(encode, (x, layer.codewords, layer.scale))


def test_gradient_of_a_zero_scale_is_right() -> None:
    layer = Encoding(4, 3).double()
    with torch.no_grad():
        layer.scale.zero_()
    x = torch.randn(1, 6, 4, dtype=torch.float64)
    actual = torch.autograd.grad(layer(x).square().sum(), layer.scale)[0]
    expected = torch.autograd.grad(reference(x, layer.codewords, layer.scale).square().sum(), layer.scale)[0]
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(actual, expected)


def test_keeps_its_digits_far_from_zero() -> None:
    layer = Encoding(16, 8)
    with torch.no_grad():
        layer.codewords.add_(300)
    x = torch.randn(2, 50, 16) + 300
    expected = reference(x.double(), layer.codewords.double(), layer.scale.double())
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_works_in_float32_under_autocast(dtype: torch.dtype) -> None:
    layer = Encoding(16, 8)
    x = (torch.randn(2, 50, 16) * 4).to(dtype)
    with torch.autocast("cpu", dtype):
        actual = layer(x)
    expected = reference(x.double(), layer.codewords.double(), layer.scale.double())
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_parameters_give_half_precision_codes() -> None:
    layer = Encoding(4, 2).bfloat16()
    assert layer(torch.randn(1, 3, 4).bfloat16()).dtype == torch.bfloat16


def test_memory_is_linear_beyond_65535_descriptors() -> None:
    batch, length, codes, channels = 1, 70_000, 4, 8
    layer = Encoding(channels, codes)
    x = torch.randn(batch, length, channels, requires_grad=True)
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = layer(x)
    assert max(sizes) == batch * length * channels
    torch.testing.assert_close(out, reference(x, layer.codewords, layer.scale), rtol=1e-3, atol=1e-1)


def test_initial_values() -> None:
    layer = Encoding(64, 32)
    bound = (32 * 64) ** -0.5
    assert layer.codewords.abs().max() <= bound
    assert layer.codewords.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert layer.scale.min() >= -1
    assert layer.scale.max() <= 0


def test_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"input of shape \(2, 5, 3\) does not fit channels=4: pass \(B, N, C\)"):
        Encoding(4, 2)(torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="num_codes=0: both must be at least 1"):
        Encoding(4, 0)
