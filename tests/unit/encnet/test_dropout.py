"""Keyed dropout: the mask is a function of the key, and of nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from encnet import KeyedDropout2d, set_dropout_key

MASK_64 = 2**64 - 1


def mix(state: int) -> int:
    """SplitMix64 as published, in unbounded integers."""
    state = (state + 0x9E3779B97F4A7C15) & MASK_64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK_64
    return state ^ (state >> 31)


def keyed(p: float, seed: int, step: int, positions: list[int], layer: int = 0) -> KeyedDropout2d:
    dropout = KeyedDropout2d(p, layer)
    set_dropout_key(dropout, seed, step, torch.tensor(positions, dtype=torch.int64))
    return dropout


def kept(dropout: nn.Module, batch: int, channels: int = 512) -> Tensor:
    return dropout(torch.ones(batch, channels, 1, 1))[:, :, 0, 0] > 0


def test_splitmix64_is_the_published_generator() -> None:
    """The first outputs of the reference implementation (Vigna) for seed 1234567."""
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(mix(state))
        state = (state + 0x9E3779B97F4A7C15) & MASK_64
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@settings(max_examples=25, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 5))
def test_numbers_are_splitmix64_of_the_key(seed: int, step: int, position: int, layer: int) -> None:
    numbers = keyed(0.5, seed, step, [position], layer).uniform(4, torch.device("cpu"))
    for channel in range(4):
        state = position
        for part in (seed, step, layer, channel):
            state = mix(state ^ (part & MASK_64))
        assert numbers[0, channel].item() == (state >> 40) / 2**24


def test_splitting_the_batch_changes_nothing() -> None:
    whole = kept(keyed(0.3, 1, 2, [0, 1, 2, 3, 4]), 5)
    parts = [kept(keyed(0.3, 1, 2, positions), len(positions)) for positions in ([0, 2, 4], [], [1, 3])]
    assert torch.equal(whole[[0, 2, 4, 1, 3]], torch.cat(parts))


def test_every_part_of_the_key_counts() -> None:
    base = kept(keyed(0.5, 1, 2, [3], layer=0), 1)
    assert torch.equal(base, kept(keyed(0.5, 1, 2, [3], layer=0), 1))
    others = [keyed(0.5, 9, 2, [3]), keyed(0.5, 1, 9, [3]), keyed(0.5, 1, 2, [9]), keyed(0.5, 1, 2, [3], layer=1)]
    for other in others:
        differing = (kept(other, 1) != base).double().mean().item()
        assert differing == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_its_share_of_channels_and_scales_the_rest(p: float) -> None:
    dropout = keyed(p, 5, 6, list(range(200)))
    out = dropout(torch.ones(200, 512, 2, 2))
    dropped = out == 0
    assert dropped.double().mean().item() == pytest.approx(p, abs=0.01)
    assert torch.equal(dropped.any(dim=(2, 3)), dropped.all(dim=(2, 3)))
    torch.testing.assert_close(out[~dropped], torch.full_like(out[~dropped], 1 / (1 - p)))
    share = dropped[:, :, 0, 0].double().mean(dim=0)
    assert share.std().item() == pytest.approx((p * (1 - p) / 200) ** 0.5, rel=0.2)


def test_gradient_flows_through_what_is_kept() -> None:
    x = torch.ones(2, 64, 2, 2, requires_grad=True)
    out = keyed(0.5, 1, 1, [0, 1])(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())


def test_keeps_half_precision() -> None:
    out = keyed(0.1, 1, 1, [0])(torch.ones(1, 8, 1, 1, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16


def test_does_nothing_in_evaluation_or_with_p_0() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert keyed(0.9, 1, 1, [0, 1]).eval()(x) is x
    assert KeyedDropout2d(0.0)(x) is x


def test_without_a_key_it_draws_from_torch() -> None:
    x = torch.ones(4, 100, 2, 2)
    torch.manual_seed(3)
    actual = KeyedDropout2d(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(actual, torch.nn.functional.dropout2d(x, 0.5))


def test_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="2 positions in the key, 3 images in the batch: call set_dropout_key"):
        keyed(0.5, 1, 1, [0, 1])(torch.ones(3, 4, 1, 1))
    with pytest.raises(ValueError, match="p=1 is not a probability below 1"):
        KeyedDropout2d(1)
    with pytest.raises(ValueError, match=r"positions: shape \(2,\), torch.float32: give a \(B,\) int64 tensor"):
        set_dropout_key(KeyedDropout2d(), 0, 0, torch.zeros(2))
