"""The moving average of a network's weights over its steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import encnet


def decay_at(step: int, decay: float) -> float:
    """What the average keeps of itself at `step` (0, 1, ...): less at first, so that the start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """An exponential moving average of a network's parameters and buffers, the running statistics of BatchNorm among
    them. Counters are copied.

    A function of the weights and the number of the step alone: the averaged weights are all there is to checkpoint.

    Attributes:
        net: the network with averaged weights, in evaluation mode.
    """

    def __init__(self, net: encnet.SegmentationNet, decay: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the weights that step `step` (0, 1, ...) has led to."""
        pairs = list(zip(_tensors(self.net), _tensors(net), strict=True))
        floats = [(mean, new) for mean, new in pairs if mean.is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in floats], [new for _, new in floats], 1 - decay_at(step, self.decay))
        for mean, new in pairs:
            if not mean.is_floating_point():
                mean.copy_(new)

    @torch.no_grad()
    def restart(self, net: nn.Module) -> None:
        """Begin anew with the weights of `net`."""
        self.net.load_state_dict(net.state_dict())


def _tensors(net: nn.Module) -> Iterator[Tensor]:
    return iter(net.state_dict().values())
