"""The Context Encoding Module against its steps, written out."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from encnet import ContextEncoding


def randomised(module: ContextEncoding) -> ContextEncoding:
    """Give every parameter and statistic a value that a mistake would show in."""
    for name, tensor in module.state_dict().items():
        if "num_batches" not in name:
            tensor.copy_(torch.rand_like(tensor) + 0.1 if "var" in name else torch.randn_like(tensor) * 0.3)
    return module.double().eval()


def normalised(x: Tensor, bn: torch.nn.modules.batchnorm._BatchNorm, dim: int) -> Tensor:
    shape = [1] * x.dim()
    shape[dim] = -1
    assert bn.running_mean is not None
    assert bn.running_var is not None
    mean, var = bn.running_mean.view(shape), bn.running_var.view(shape)
    return (x - mean) / (var + bn.eps).sqrt() * bn.weight.view(shape) + bn.bias.view(shape)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_matches_its_steps(residual: bool, reduction: Literal["mean", "sum"]) -> None:
    module = randomised(ContextEncoding(6, 3, num_classes=4, residual=residual, reduction=reduction))
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    conv: torch.nn.Conv2d = module.project.conv  # type: ignore[assignment]
    bn: torch.nn.BatchNorm2d = module.project.bn  # type: ignore[assignment]
    projected = normalised(torch.einsum("bchw,oc->bohw", x, conv.weight[:, :, 0, 0]), bn, dim=1).clamp(min=0)
    codes = normalised(module.encoding(projected), module.norm, dim=1).clamp(min=0)
    vector = codes.sum(dim=1) / (3 if reduction == "mean" else 1)
    gamma = (1 / (1 + (-(vector @ module.fc.weight.T + module.fc.bias)).exp()))[:, :, None, None]
    assert module.se is not None
    out, se_logits = module(x)
    torch.testing.assert_close(out, (x + x * gamma).clamp(min=0) if residual else x * gamma)
    torch.testing.assert_close(se_logits, vector @ module.se.weight.T + module.se.bias)


def test_without_se_branch() -> None:
    module = ContextEncoding(6, 3, num_classes=None)
    assert module(torch.randn(2, 6, 4, 4))[1] is None
    assert not any(name.startswith("se.") for name in module.state_dict())


def test_codes_are_normalised_over_batch_and_channels() -> None:
    module = ContextEncoding(6, 3, num_classes=None)
    assert module.norm.num_features == 3
    assert module(torch.randn(1, 6, 4, 4))[0].shape == (1, 6, 4, 4)


@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 5, 4, 4)])
def test_says_which_input_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input of shape \(2, .*\) does not fit channels=6: pass \(B, 6, H, W\)"):
        ContextEncoding(6, 3, num_classes=4)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes: 0 is too small: give at least 1, or None for no SE branch"),
        ({"reduction": "max"}, "reduction: 'max' is not a choice: choose from mean, sum"),
        ({"num_codes": 0}, "num_codes=0: both must be at least 1"),
    ],
)
def test_says_which_argument_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextEncoding(**{"channels": 6, "num_codes": 3, "num_classes": 4, **arguments})
