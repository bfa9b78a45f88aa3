"""A whole training step: the same loss and gradients whatever the number of ranks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from encnet import (
    ModelConfig,
    SegmentationLoss,
    batch_totals,
    build_model,
    convert_sync_batchnorm,
    set_dropout_key,
)
from tests.unit.encnet.ranks import Ranks

WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.5], dtype=torch.float64)


def step(rank: int, config: ModelConfig, shares: list[list[int]]) -> dict[str, Tensor]:
    """One step of this rank on its lanes of a batch of 4: loss, gradients and running statistics."""
    torch.manual_seed(0)
    model: nn.Module = build_model(config).double()
    images = torch.randn(4, 3, 40, 56, dtype=torch.float64)
    labels = torch.randint(0, 5, (4, 40, 56), dtype=torch.uint8)
    labels[1] = 255
    lanes = torch.tensor(shares[rank], dtype=torch.int64)
    world_size = len(shares)
    if world_size > 1:
        model = DistributedDataParallel(convert_sync_batchnorm(model), broadcast_buffers=False)
    set_dropout_key(model, seed=3, step=11, positions=lanes)
    totals = batch_totals(labels[lanes], WEIGHTS)
    parts = SegmentationLoss(class_weights=WEIGHTS)(model(images[lanes]), labels[lanes], totals)
    (parts.total * world_size).backward()
    loss = parts.total.detach()
    if world_size > 1:
        dist.all_reduce(loss)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    result = {"loss": loss, **gradients, **dict(model.named_buffers())}
    return {name.removeprefix("module."): thinned(value) for name, value in result.items() if value is not None}


def thinned(value: Tensor) -> Tensor:
    """About a thousand of the values, since those of all ranks go through a pipe."""
    return value.flatten()[:: value.numel() // 1000 + 1].clone()


@pytest.mark.parametrize("ranks", [4], indirect=True, ids=["4-ranks"])
def test_a_step_does_not_depend_on_the_ranks(ranks: Ranks, small: ModelConfig) -> None:
    config = replace(small, dropout=0.5)
    shares = [[0, 2], [1], [], [3]]
    expected = step(0, config, [[0, 1, 2, 3]])
    for actual in ranks.run(step, config, shares):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.allclose(actual[name], value, rtol=1e-7, atol=1e-9), name
