"""The schedule as a function of the step, and which parameter is in which group."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import encnet
from pipeline.config import OptimConfig
from pipeline.optim import build_optimizer, epoch_end, learning_rate_factor, num_steps, set_learning_rate


def _net() -> torch.nn.Module:
    return encnet.build_model(
        encnet.ModelConfig(num_classes=3, backbone="resnet18", output_stride=32, head_channels=16)
    )


@pytest.mark.parametrize(
    ("samples", "epochs", "batch_size", "max_steps", "steps"),
    [(367, 30, 16, 0, 689), (16, 1, 4, 0, 4), (17, 1, 4, 0, 5), (16, 0.5, 4, 0, 2), (16, 30, 4, 7, 7)],
)
def test_the_number_of_steps(samples: int, epochs: float, batch_size: int, max_steps: int, steps: int) -> None:
    assert num_steps(samples, OptimConfig(epochs=epochs, batch_size=batch_size, max_steps=max_steps)) == steps


@given(samples=st.integers(1, 500), batch_size=st.integers(1, 64), epoch=st.integers(0, 20))
def test_an_epoch_ends_with_the_step_that_takes_its_last_sample(samples: int, batch_size: int, epoch: int) -> None:
    end = epoch_end(epoch, samples, batch_size)
    last_sample = (epoch + 1) * samples - 1
    assert (end - 1) * batch_size <= last_sample < end * batch_size


def test_the_poly_schedule() -> None:
    assert learning_rate_factor(0, 100, power=0.9) == 1.0
    assert learning_rate_factor(25, 100, power=0.9) == pytest.approx(0.75**0.9, rel=1e-12)
    assert learning_rate_factor(99, 100, power=0.9) == pytest.approx(0.01**0.9, rel=1e-12)
    assert learning_rate_factor(100, 100, power=0.9) == 0.0
    assert learning_rate_factor(30, 100, power=2.0) == pytest.approx(0.49, rel=1e-12)


def test_the_warm_up_rises_to_the_schedule() -> None:
    factors = [learning_rate_factor(step, 100, power=1.0, warmup_steps=10) for step in range(12)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[4] == pytest.approx(0.5 * 0.96)
    assert factors[9:] == pytest.approx([0.91, 0.90, 0.89])


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
