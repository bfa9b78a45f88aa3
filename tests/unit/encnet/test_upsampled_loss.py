"""The strip-wise loss of upsampled logits against interpolation and cross-entropy, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from encnet import SegmentationLoss, SegmentationOutput
from encnet import upsampled_loss as module
from encnet.upsampled_loss import upsampled_cross_entropy


def reference(logits: Tensor, labels: Tensor, weights: Tensor | None, align_corners: bool) -> Tensor:
    whole = F.interpolate(logits.double(), size=labels.shape[1:], mode="bilinear", align_corners=align_corners)
    weights = None if weights is None else weights.double()
    return F.cross_entropy(whole, labels.long(), weight=weights, ignore_index=255, reduction="sum")


def labels_of(batch: int, classes: int, size: tuple[int, int], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, classes, (batch, *size), generator=generator, dtype=torch.uint8)
    return ids.masked_fill(torch.rand(batch, *size, generator=generator) < 0.2, 255)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(1, 6),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_loss_and_gradient_are_those_of_the_whole(
    batch: int, classes: int, small: tuple[int, int], size: tuple[int, int], aligned: bool, weighted: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    logits = (torch.randn(batch, classes, *small, dtype=torch.float64) * 3).requires_grad_()
    labels = labels_of(batch, classes, size, seed)
    weights = torch.rand(classes, dtype=torch.float64) if weighted else None
    actual = upsampled_cross_entropy(logits, labels, weights, align_corners=aligned)
    expected = reference(logits, labels, weights, aligned)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    grads = [torch.autograd.grad(loss * 0.3, logits)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strip_elements", [1, 500, 3000, 2**20])
def test_strips_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, strip_elements: int) -> None:
    monkeypatch.setattr(module, "CPU_STRIP_ELEMENTS", strip_elements)
    logits = torch.randn(2, 5, 4, 6, requires_grad=True)
    labels = labels_of(2, 5, (33, 50))
    actual, expected = upsampled_cross_entropy(logits, labels), reference(logits, labels, None, False)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=0)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


def test_gradcheck() -> None:
    logits = torch.randn(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = labels_of(1, 3, (7, 8))
    assert torch.autograd.gradcheck(lambda logits: upsampled_cross_entropy(logits, labels), (logits,))


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e4])
def test_large_logits_stay_finite(magnitude: float) -> None:
    logits = (torch.randn(1, 4, 3, 3) * magnitude).requires_grad_()
    labels = labels_of(1, 4, (12, 12))
    actual = upsampled_cross_entropy(logits, labels)
    torch.testing.assert_close(actual.double(), reference(logits, labels, None, False), rtol=1e-5, atol=1e-6)
    assert torch.autograd.grad(actual, logits)[0].isfinite().all()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_dtype_and_autocast_don_t_matter(memory_format: torch.memory_format, dtype: torch.dtype) -> None:
    logits = torch.randn(2, 6, 4, 5).to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    labels = labels_of(2, 6, (16, 20))
    with torch.autocast("cpu", torch.bfloat16):
        actual = upsampled_cross_entropy(logits, labels)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), reference(logits, labels, None, False), rtol=1e-5, atol=0)
    grad = torch.autograd.grad(actual, logits)[0]
    assert grad.dtype == dtype


def test_no_tensor_is_larger_than_a_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, list | tuple) else [out]:
                if isinstance(tensor, Tensor):
                    held = tensor.untyped_storage().nbytes() // tensor.element_size()  # an expanded view holds less
                    self.elements = max(self.elements, held)
            return out

    monkeypatch.setattr(module, "CPU_STRIP_ELEMENTS", 30_000)
    logits = torch.randn(2, 50, 16, 16, requires_grad=True)  # 25,600 elements
    labels = labels_of(2, 50, (128, 128))  # 1,638,400 logits at this size
    with Largest() as largest:
        upsampled_cross_entropy(logits, labels).backward()
    assert 25_600 <= largest.elements <= 2 * 128 * 128  # the labels themselves


@pytest.mark.parametrize("aligned", [False, True])
def test_small_and_upsampled_logits_give_the_same_parts(aligned: bool) -> None:
    labels = labels_of(2, 4, (24, 40))
    small = SegmentationOutput(torch.randn(2, 4, 3, 5), torch.randn(2, 4, 6, 10), None)
    assert small.aux_logits is not None
    logits, aux_logits = (
        F.interpolate(logits, size=(24, 40), mode="bilinear", align_corners=aligned)
        for logits in (small.logits, small.aux_logits)
    )
    whole = SegmentationOutput(logits, aux_logits, None)
    loss = SegmentationLoss(class_weights=torch.rand(4), align_corners=aligned)
    torch.testing.assert_close(loss(small, labels), loss(whole, labels))
