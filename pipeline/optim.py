"""The optimizer: which parameters learn, at what multiple of the learning rate, and with decay or without."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config import OptimConfig


class FrozenBatchNorm(_BatchNorm):
    """BatchNorm that always uses its running statistics: `train()` leaves it in evaluation mode."""

    def train(self, mode: bool = True) -> FrozenBatchNorm:
        """Stay in evaluation mode, whatever the network around is put into."""
        return super().train(False)

    def _check_input_dim(self, x: torch.Tensor) -> None:
        pass  # the layer that was there before it has seen such inputs


def freeze(net: nn.Module, optim: OptimConfig) -> None:
    """Keep what `optim.freeze` names from learning: the backbone, or only its BatchNorm.

    Call it after the conversion to synchronized BatchNorm, and before DDP and the optimizer are built.
    """
    if optim.freeze == "none":
        return
    backbone = net.get_submodule("backbone")
    _freeze_norms(backbone)
    for module in backbone.modules():
        if optim.freeze == "backbone" or isinstance(module, FrozenBatchNorm):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)


def _freeze_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            _freeze_norms(child)
            continue
        frozen = FrozenBatchNorm(child.num_features, child.eps)
        frozen._parameters, frozen._buffers = child._parameters, child._buffers
        setattr(module, name, frozen.train())


def trained(net: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that learn."""
    return (parameter for parameter in net.parameters() if parameter.requires_grad)


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over four groups: backbone or head (its learning rate a multiple), decayed or not.

    Biases, normalisation parameters, codewords and smoothing factors are not decayed; what is frozen is left out.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
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
    # Fused: one pass over the weights instead of one an operation, which on a CPU core is 2 to 5 times as fast.
    if optim.kind == "adamw":
        return torch.optim.AdamW(options, lr=optim.lr, betas=(optim.momentum, 0.999), fused=True)
    return torch.optim.SGD(options, lr=optim.lr, momentum=optim.momentum, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate to `lr` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
