"""What a network costs: parameters and multiply-adds, part by part, counted from shapes without computing anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from encnet.config import ModelConfig
from encnet.encoding import Encoding
from encnet.model import build_model

PARTS = {
    "backbone": "backbone.",
    "jpu": "jpu.",
    "head": "head.",
    "context": "head.context.",
    "se": "head.context.se.",
    "aux_head": "aux_head.",
}
"""Fields of ModelCost -> how the names of their layers begin."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a part of a network."""

    parameters: int
    """Learned numbers; BatchNorm's running statistics are none."""

    multiply_adds: int
    """Of the forward pass of one image."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            parameters=self.parameters + other.parameters, multiply_adds=self.multiply_adds + other.multiply_adds
        )


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """The cost of a network on one image; a part that it doesn't have costs nothing."""

    size: tuple[int, int]
    """Height and width of the image."""

    backbone: Cost

    jpu: Cost
    """Joint Pyramid Upsampling."""

    head: Cost
    """The head with its context module, but without the SE branch."""

    context: Cost
    """The context module alone, which `head` includes."""

    se: Cost
    """The head's SE branch, which only the SE-loss needs."""

    aux_head: Cost
    """The auxiliary head, with its own context module and SE branch where it has them."""

    @property
    def inference(self) -> Cost:
        """What the logits need."""
        return self.backbone + self.jpu + self.head

    @property
    def training(self) -> Cost:
        """What the losses need: everything, forward."""
        return self.inference + self.se + self.aux_head


def model_cost(config: ModelConfig, size: tuple[int, int] = (512, 512)) -> ModelCost:
    """Count a network's parameters, and its multiply-adds on one image.

    A multiply-add is one product in a convolution or linear layer, k * k * C_in / groups per output value, or in one of
    the Encoding layer's two matrix products (distances and weighted sums), 2 * N * K * C. Left out, as is customary,
    is everything else: biases, BatchNorm, activations, pooling, resizing, softmax, the scaling by gamma.

    Args:
        config: of the network.
        size: height and width of the image, before input_scale.

    Raises:
        ValueError: the image is too small for the network.
    """
    with torch.device("meta"):
        model = build_model(config).eval()
        images = torch.empty(1, 3, *size)
    parameters: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parameters.update(dict.fromkeys(_parts(name), parameter.numel()))
    multiply_adds: Counter[str] = Counter()
    for name, layer in model.named_modules():
        layer.register_forward_hook(partial(_count, multiply_adds, _parts(f"{name}.")))
    with torch.no_grad():
        model(images, auxiliary=True)
    costs = {part: Cost(parameters=parameters[part], multiply_adds=multiply_adds[part]) for part in PARTS}
    return ModelCost(size=size, **costs)


def _parts(name: str) -> list[str]:
    """Return the fields of ModelCost that count the parameter or layer of this name."""
    if name.startswith(PARTS["se"]):
        return ["se"]
    return [part for part, prefix in PARTS.items() if name.startswith(prefix)]


def _count(totals: Counter[str], parts: list[str], layer: nn.Module, inputs: tuple[Tensor, ...], out: Any) -> None:
    """Add a layer's multiply-adds to the totals of its parts: a forward hook."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        totals.update(dict.fromkeys(parts, out.numel() * layer.weight[0].numel()))
    elif isinstance(layer, Encoding):
        totals.update(dict.fromkeys(parts, 2 * inputs[0].numel() * layer.num_codes))
