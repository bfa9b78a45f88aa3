"""The average of the weights against the formula, and as a network of its own."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

import encnet
from pipeline.ema import WeightAverage, decay_at

CONFIG = encnet.ModelConfig(num_classes=3, backbone="resnet18", output_stride=32, head_channels=16)


@given(step=st.integers(0, 10**7), decay=st.floats(0.0, 0.99999))
def test_the_decay_rises_to_what_is_asked_for(step: int, decay: float) -> None:
    assert 0 <= decay_at(step, decay) <= decay_at(step + 1, decay) <= decay
    assert decay_at(10**9, decay) == decay


def test_it_is_the_weighted_mean_of_all_weights_there_were() -> None:
    net = encnet.build_model(CONFIG)
    average = WeightAverage(net, 0.3)
    expected = {name: tensor.double() for name, tensor in net.state_dict().items()}
    for step in range(8):
        with torch.no_grad():
            for tensor in net.state_dict().values():
                tensor.add_(torch.randn_like(tensor)) if tensor.is_floating_point() else tensor.add_(1)
        average.update(net, step)
        kept = min(0.3, (1 + step) / (10 + step))
        for name, tensor in net.state_dict().items():
            is_count = name.endswith("num_batches_tracked")
            expected[name] = tensor.double() if is_count else kept * expected[name] + (1 - kept) * tensor.double()
    for name, tensor in average.net.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_it_neither_learns_nor_trains_and_leaves_the_network_alone() -> None:
    net = encnet.build_model(CONFIG).train()
    average = WeightAverage(net, 0.9)
    assert not average.net.training
    assert not any(parameter.requires_grad for parameter in average.net.parameters())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    average.update(net, 0)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_it_begins_anew() -> None:
    average, other = WeightAverage(encnet.build_model(CONFIG), 0.9), encnet.build_model(CONFIG)
    average.restart(other)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in average.net.state_dict().items())
    before = average.net.head.classifier.weight.clone()
    with torch.no_grad():
        other.head.classifier.weight.add_(1)
    assert torch.equal(average.net.head.classifier.weight, before)
