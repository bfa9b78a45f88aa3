"""Synchronized BatchNorm against one process with the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from encnet import SyncBatchNorm, convert_sync_batchnorm
from tests.unit.encnet.ranks import Ranks

SHARES: dict[int, list[tuple[int, ...]]] = {2: [(3, 1), (0, 4)], 4: [(1, 1, 1, 1), (0, 2, 1, 1), (4, 0, 0, 0)]}
SHAPES: dict[str, tuple[int, ...]] = {"1d": (6, 9), "2d": (6, 5, 7), "vector": (6,)}
Result = dict[str, Tensor]


def batch_of(shape: tuple[int, ...], dtype: torch.dtype, offset: float) -> tuple[Tensor, Tensor]:
    """Inputs whose channels differ in mean and spread, and the weights of their outputs in the loss."""
    generator = torch.Generator().manual_seed(1)
    view = (1, -1, *[1] * (len(shape) - 1))
    spread = torch.logspace(-1, 1, shape[0], dtype=torch.float64).view(view)
    x = torch.randn(4, *shape, generator=generator, dtype=torch.float64) * spread + offset
    return x.to(dtype), torch.randn(4, *shape, generator=generator, dtype=torch.float64).to(dtype)


def train(layer: nn.Module, x: Tensor, weights: Tensor) -> Result:
    """Two training steps: outputs, gradients and statistics."""
    x.requires_grad_()
    for _ in range(2):
        out = layer(x)
        (out * weights).sum().backward()
    gradients = {f"grad {name}": parameter.grad for name, parameter in layer.named_parameters()}
    buffers = dict(layer.named_buffers())
    result: dict[str, Tensor | None] = {"out": out, "grad x": x.grad, **gradients, **buffers}
    return {name: tensor.detach() for name, tensor in result.items() if tensor is not None}


def layer_of(channels: int, kind: str, **options: Any) -> nn.Module:
    layer: nn.BatchNorm1d | nn.BatchNorm2d
    layer = nn.BatchNorm2d(channels, **options) if kind == "2d" else nn.BatchNorm1d(channels, **options)
    if layer.affine:
        nn.init.uniform_(layer.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(2))
        nn.init.uniform_(layer.bias, -1, 1, generator=torch.Generator().manual_seed(3))
    return layer


def _train_rank(
    rank: int, share: tuple[int, ...], kind: str, dtype: torch.dtype, offset: float, options: dict[str, Any]
) -> tuple[Result, list[str]]:
    x, weights = batch_of(SHAPES[kind], dtype, offset)
    mine = slice(sum(share[:rank]), sum(share[: rank + 1]))
    x, weights = x[mine].clone(), weights[mine]
    if kind == "2d":
        x = x.to(memory_format=torch.channels_last)
    layer = layer_of(x.shape[1], kind, **options)
    layer = convert_sync_batchnorm(layer.double() if dtype == torch.float64 else layer)
    return _counting_collectives(lambda: train(layer, x, weights))


def _counting_collectives(function: Callable[[], Result]) -> tuple[Result, list[str]]:
    names = ["all_gather", "all_reduce"]
    real = {name: getattr(dist, name) for name in names}
    calls: list[str] = []

    def counting(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return real[name](*args, **kwargs)

        return call

    for name in names:
        setattr(dist, name, counting(name))
    try:
        return function(), calls
    finally:
        for name in names:
            setattr(dist, name, real[name])


def check(
    ranks: Ranks, kind: str, dtype: torch.dtype, tolerance: float, offset: float = 0.0, **options: Any
) -> list[list[str]]:
    """Compare every share of the batch with a float64 BatchNorm on the whole of it; return the collectives."""
    called = []
    for share in SHARES[ranks.size]:
        x, weights = (tensor.double() for tensor in batch_of(SHAPES[kind], dtype, offset))
        expected = train(layer_of(x.shape[1], kind, **options).double(), x, weights)
        answers = ranks.run(_train_rank, share, kind, dtype, offset, options)
        called += [calls for _, calls in answers]
        results = [result for result, _ in answers]
        for name, value in expected.items():
            if name in ("out", "grad x"):
                actual = torch.cat([result[name] for result in results])
            elif name.startswith("grad"):
                actual = torch.stack([result[name] for result in results]).sum(dim=0)
            else:
                actual = results[0][name]
                assert all(torch.equal(result[name], actual) for result in results)
            scale = value.abs().max().item() if name.startswith("grad") else 1.0
            actual = actual.to(value.dtype)
            assert torch.allclose(actual, value, rtol=tolerance, atol=tolerance * scale), (share, name, actual, value)
    return called


@pytest.mark.parametrize("kind", list(SHAPES))
def test_is_batchnorm_of_the_whole_batch(ranks: Ranks, kind: str) -> None:
    check(ranks, kind, torch.float64, 1e-9)


@pytest.mark.parametrize("kind", ["1d", "2d"])
def test_is_batchnorm_in_float32(ranks: Ranks, kind: str) -> None:
    check(ranks, kind, torch.float32, 1e-5)


def test_is_batchnorm_far_from_zero(ranks: Ranks) -> None:
    """Where E[x^2] - E[x]^2 in float32 is off by several times the smallest channel's variance."""
    check(ranks, "2d", torch.float32, 5e-3, offset=1000.0)


def test_is_batchnorm_in_bfloat16(ranks: Ranks) -> None:
    check(ranks, "2d", torch.bfloat16, 2e-2)


@pytest.mark.parametrize(
    "options", [{"affine": False}, {"momentum": None}, {"track_running_stats": False}, {"eps": 0.1, "momentum": 0.3}]
)
def test_options(ranks: Ranks, options: dict[str, Any]) -> None:
    check(ranks, "2d", torch.float64, 1e-9, **options)


def test_one_collective_each_way(ranks: Ranks) -> None:
    for calls in check(ranks, "2d", torch.float32, 1e-5):
        assert calls == ["all_gather", "all_reduce"] * 2


def accumulate(net: nn.Sequential, micro_batches: list[Tensor], evaluates: bool) -> Result:
    """The last output and the gradients of two micro-batches, one layer frozen, perhaps with evaluations between."""
    for x in micro_batches:
        net.train()
        net[2].eval()
        out = net(x)
        out.square().sum().backward()
        if evaluates:
            net.eval()(x)
    gradients = {f"grad {name}": parameter.grad for name, parameter in net.named_parameters()}
    result = {"out": out, **gradients, **dict(net.named_buffers())}
    return {name: tensor.detach() for name, tensor in result.items() if tensor is not None}


def mixed_net() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), layer_of(4, "2d"))


def _accumulate_rank(rank: int, share: tuple[int, ...]) -> Result:
    mine = slice(sum(share[:rank]), sum(share[: rank + 1]))
    batches = [batch_of(SHAPES["2d"], torch.float32, offset)[0][mine] for offset in (0.0, 2.0)]
    # Ranks that evaluate alone: no other takes part in a collective.
    return accumulate(convert_sync_batchnorm(mixed_net()), batches, evaluates=rank == 0)


def test_micro_batches_and_frozen_layers_add_up(ranks: Ranks) -> None:
    batches = [batch_of(SHAPES["2d"], torch.float64, offset)[0] for offset in (0.0, 2.0)]
    expected = accumulate(mixed_net().double(), batches, evaluates=True)
    for share in SHARES[ranks.size]:
        results = ranks.run(_accumulate_rank, share)
        for name, value in expected.items():
            if name == "out":
                actual = torch.cat([result[name] for result in results])
            elif name.startswith("grad"):
                actual = torch.stack([result[name] for result in results]).sum(dim=0)
            else:
                actual = results[-1][name]
            assert torch.allclose(actual.to(value), value, rtol=1e-5, atol=1e-5 * value.abs().max().item()), name


def _evaluate_rank(rank: int) -> bool:
    plain = layer_of(6, "2d")
    x = torch.randn(2, 6, 4, 4)
    plain(x)
    sync = convert_sync_batchnorm(deepcopy(plain))
    # One rank alone: no other takes part in a collective.
    return rank > 0 or torch.equal(sync.eval()(x), plain.eval()(x))


def test_evaluation_is_plain_batchnorm_without_collectives(ranks: Ranks) -> None:
    assert all(ranks.run(_evaluate_rank))


def _single_value(rank: int) -> str:
    layer = convert_sync_batchnorm(nn.BatchNorm2d(6))
    try:
        layer(torch.randn(1 if rank == 0 else 0, 6, 1, 1))
    except ValueError as error:
        return str(error)
    return ""


def test_refuses_a_single_value(ranks: Ranks) -> None:
    for rank, message in enumerate(ranks.run(_single_value)):
        batch = 1 if rank == 0 else 0
        assert message.startswith(f"SyncBatchNorm: 1 value a channel in the global batch of shape ({batch}, 6, 1, 1)")


def _subgroup_mean(rank: int) -> list[float]:
    groups = [dist.new_group([member]) for member in range(dist.get_world_size())]
    layer = convert_sync_batchnorm(nn.BatchNorm1d(1, momentum=1.0), process_group=groups[rank])
    layer(torch.tensor([[0.0], [2.0]]) + rank)
    assert isinstance(layer.running_mean, Tensor)
    return layer.running_mean.tolist()


def test_keeps_to_its_process_group(ranks: Ranks) -> None:
    assert ranks.run(_subgroup_mean) == [[1.0 + rank] for rank in range(ranks.size)]


def test_alone_it_is_plain_batchnorm() -> None:
    plain = layer_of(6, "2d")
    sync = convert_sync_batchnorm(deepcopy(plain))
    x = torch.randn(3, 6, 4, 4)
    weights = torch.randn(3, 6, 4, 4)
    expected, actual = train(plain, x.clone(), weights), train(sync, x.clone(), weights)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_conversion_keeps_parameters_names_and_modes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm1d(4, eps=0.01).eval()))
    parameters, names = list(model.parameters()), list(model.state_dict())
    converted = convert_sync_batchnorm(convert_sync_batchnorm(model))
    assert converted is model
    outer, inner = model.get_submodule("1"), model.get_submodule("2.0")
    assert isinstance(outer, SyncBatchNorm)
    assert isinstance(inner, SyncBatchNorm)
    assert inner.eps == 0.01
    assert [outer.training, inner.training] == [True, False]
    assert all(mine is theirs for mine, theirs in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
