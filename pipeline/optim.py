"""The optimizer and its schedule: pure functions of the step, and the parameter groups."""

from __future__ import annotations

import math

import torch
from torch import nn

from pipeline.config import OptimConfig


def num_steps(num_samples: int, optim: OptimConfig) -> int:
    """Steps of the whole run over a split of `num_samples`."""
    return optim.max_steps or math.ceil(optim.epochs * num_samples / optim.batch_size)


def epoch_end(epoch: int, num_samples: int, batch_size: int) -> int:
    """The step count at which the last sample of `epoch` (0, 1, ...) has been consumed."""
    return math.ceil((epoch + 1) * num_samples / batch_size)


def learning_rate_factor(step: int, steps: int, *, power: float, warmup_steps: int = 0) -> float:
    """The poly schedule at `step` of `steps`: (1 - step / steps) ** power, after a linear warm-up."""
    poly = max(0.0, 1.0 - step / steps) ** power
    return poly * min(1.0, (step + 1) / warmup_steps) if warmup_steps else poly


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over four groups: backbone or head (its learning rate a multiple), decayed or not.

    Biases, normalisation parameters, codewords and smoothing factors are not decayed.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decayed = parameter.ndim > 1 and not name.endswith("codewords")
        groups.setdefault((name.startswith("backbone."), decayed), []).append(parameter)
    options = [
        {
            "params": parameters,
            "lr_factor": 1.0 if in_backbone else optim.head_lr_factor,
            "weight_decay": optim.weight_decay if decayed else 0.0,
        }
        for (in_backbone, decayed), parameters in groups.items()
    ]
    if optim.kind == "adamw":
        return torch.optim.AdamW(options, lr=optim.lr, betas=(optim.momentum, 0.999))
    return torch.optim.SGD(options, lr=optim.lr, momentum=optim.momentum)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate to `lr` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
