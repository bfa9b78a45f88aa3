"""Which parameter is in which group, and what is frozen."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

import encnet
from pipeline.config import OptimConfig
from pipeline.optim import FrozenBatchNorm, build_optimizer, freeze, set_learning_rate, trained


def _net() -> encnet.SegmentationNet:
    return encnet.build_model(
        encnet.ModelConfig(num_classes=3, backbone="resnet18", output_stride=32, head_channels=16)
    )


def test_every_parameter_is_in_the_group_that_its_name_tells() -> None:
    net = _net()
    optim = OptimConfig(lr=0.1, head_lr_factor=10.0, weight_decay=0.01, momentum=0.8)
    optimizer = build_optimizer(net, optim)
    names = {parameter: name for name, parameter in net.named_parameters()}
    grouped = [(names[parameter], group) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(name for name, _ in grouped) == sorted(names.values())
    for name, group in grouped:
        is_bias_or_norm = net.get_parameter(name).ndim < 2
        undecayed = is_bias_or_norm or "codewords" in name
        assert group["weight_decay"] == (0.0 if undecayed else 0.01), name
        assert group["lr_factor"] == (1.0 if name.startswith("backbone.") else 10.0), name
        assert group["momentum"] == 0.8
    decayed = {name for name, group in grouped if group["weight_decay"]}
    assert {"backbone.layer1.0.conv1.weight"} <= decayed
    assert [name for name, _ in grouped if "codewords" in name and name not in decayed]


def test_the_head_learns_at_a_multiple() -> None:
    optimizer = build_optimizer(_net(), OptimConfig(lr=0.1, head_lr_factor=10.0))
    set_learning_rate(optimizer, 0.02)
    rates = {group["lr_factor"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {1.0: 0.02, 10.0: pytest.approx(0.2)}


def test_decay_acts_on_weights_only() -> None:
    net = _net()
    optimizer = build_optimizer(net, OptimConfig(lr=0.1, head_lr_factor=1.0, weight_decay=0.5, momentum=0.0))
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    for name, parameter in net.named_parameters():
        kept = 1.0 if parameter.ndim < 2 or "codewords" in name else 1.0 - 0.1 * 0.5
        torch.testing.assert_close(parameter.detach(), before[name] * kept, msg=name)
        assert math.isfinite(float(parameter.detach().sum()))


@pytest.mark.parametrize("kind", ["backbone", "backbone_norm"])
def test_what_is_frozen_stays_to_the_last_bit_and_the_rest_learns(kind: Literal["backbone", "backbone_norm"]) -> None:
    optim = OptimConfig(lr=0.1, freeze=kind)
    net = encnet.convert_sync_batchnorm(_net())
    names = list(net.state_dict())
    freeze(net, optim)
    assert list(net.state_dict()) == names
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    norms = {name for name, module in net.named_modules() if isinstance(module, FrozenBatchNorm)}
    assert norms
    optimizer = build_optimizer(net, optim)
    net.eval()
    net.train()
    output = net(torch.randn(2, 3, 64, 64))
    sum(part.square().mean() for part in output if part is not None).backward()
    optimizer.step()
    for name, tensor in net.state_dict().items():
        layer = name.rpartition(".")[0]
        frozen = layer in norms or (kind == "backbone" and name.startswith("backbone."))
        assert torch.equal(tensor, before[name]) == frozen, name
    assert all(name.startswith("backbone.") for name in norms)
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in trained(net)}


def test_frozen_batchnorm_computes_as_batchnorm_in_evaluation() -> None:
    plain, frozen = _net(), _net()
    for module in plain.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.load_state_dict({**module.state_dict(), "running_mean": torch.rand(module.num_features)})
    frozen.load_state_dict(plain.state_dict())
    freeze(frozen, OptimConfig(freeze="backbone_norm"))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(frozen.train().backbone(images), plain.eval().backbone(images), rtol=0, atol=0)
