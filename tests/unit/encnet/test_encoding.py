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


def reference_by_codeword(x: Tensor, codewords: Tensor, scale: Tensor) -> Tensor:
    """As `reference`, one codeword at a time, for sizes at which all residuals would not fit."""
    residuals = [x - codeword for codeword in codewords]
    logits = torch.stack([s * r.square().sum(dim=2) for s, r in zip(scale, residuals, strict=True)], dim=2)
    weights = torch.softmax(logits, dim=2)
    return torch.stack([torch.einsum("bn,bnc->bc", weights[:, :, k], r) for k, r in enumerate(residuals)], dim=1)


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (5.0, 0.5), (30.0, 0.3), (1000.0, 10.0)])
@pytest.mark.parametrize("sizes", [(2, 60, 4, 8), (1, 4096, 32, 64), (2, 256, 32, 512)])
def test_float32_is_as_good_as_float64(mean: float, spread: float, sizes: tuple[int, int, int, int]) -> None:
    """Forward and all gradients to a relative error of 1e-5, however far from 0 features and codewords lie."""
    batch, length, codes, channels = sizes
    layer = Encoding(channels, codes)
    x = torch.randn(batch, length, channels) * spread + mean
    with torch.no_grad():
        layer.codewords.add_(x.mean(dim=(0, 1)))
        # Distances of the softmax's order, so that more than one codeword gets a share; the scale crosses 0.
        layer.scale.copy_(torch.linspace(-1, 0.1, codes) / (channels * spread**2))
    out_weights = torch.randn(batch, codes, channels)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, layer.codewords, layer.scale)]
    inputs = [x.requires_grad_(), layer.codewords, layer.scale]
    actual, expected = layer(x), reference_by_codeword(*exact)
    actual_grads = torch.autograd.grad((actual * out_weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * out_weights.double()).sum(), exact)
    for ours, truth in zip((actual, *actual_grads), (expected, *expected_grads), strict=True):
        assert (ours.double() - truth).norm() <= 1e-5 * truth.norm()


@pytest.mark.parametrize("offset", [10.0, 1000.0])
def test_one_codeword_far_from_the_others_costs_no_digits(offset: float) -> None:
    layer = Encoding(64, 8)
    with torch.no_grad():
        layer.codewords[3] += offset
        layer.scale.copy_(torch.linspace(-1, -0.1, 8) / 64)
    x = torch.randn(1, 200, 64)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, layer.codewords, layer.scale)]
    inputs = [x.requires_grad_(), layer.codewords, layer.scale]
    actual, expected = layer(x), reference_by_codeword(*exact)
    grads = zip(
        torch.autograd.grad(actual.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), exact),
        strict=True,
    )
    for ours, truth in ((actual, expected), *grads):
        assert (ours.double() - truth).norm() <= 1e-5 * truth.norm()


def test_backward_under_autocast_is_that_outside() -> None:
    layer = Encoding(16, 8)
    x = torch.randn(2, 50, 16).half().requires_grad_()
    inputs = [x, layer.codewords, layer.scale]
    with torch.autocast("cpu", torch.float16):
        out = layer(x)
        inside = torch.autograd.grad(out.sum() * 4096, inputs, retain_graph=True)
    for actual, expected in zip(inside, torch.autograd.grad(out.sum() * 4096, inputs), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("magnitude", [4.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_works_in_float32_under_autocast(dtype: torch.dtype, magnitude: float) -> None:
    """Squared distances at a magnitude of 1000 are beyond float16's largest number."""
    layer = Encoding(16, 8)
    x = (torch.randn(2, 50, 16) * magnitude).to(dtype)
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


# torch's compiler itself instantiates the class, and warns of that.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_can_be_compiled_whole_with_its_gradients() -> None:
    layer = Encoding(6, 3)
    x = torch.randn(2, 9, 6, requires_grad=True)
    inputs = (x, layer.codewords, layer.scale)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    outputs = [encode(x) for encode in (layer, compiled)]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), inputs) for out in outputs))


def test_can_be_exported_for_any_number_of_descriptors() -> None:
    layer = Encoding(6, 3).eval()
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    exported = torch.export.export(layer, (torch.randn(2, 9, 6),), dynamic_shapes=(sizes,)).module()
    x = torch.randn(3, 20, 6)
    torch.testing.assert_close(exported(x), layer(x))
