"""Parameters and multiply-adds, against published figures, layers counted by hand and torch's own counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from encnet import Cost, ModelConfig, build_model, model_cost
from encnet.config import PRESETS


@pytest.mark.parametrize(
    ("backbone", "training", "inference", "multiply_adds"),
    [("resnet50", 36_060_034, 33_584_726, 100.9), ("resnet101", 55_052_162, 52_576_854, 178.5)],
)
def test_mmseg_at_150_classes(backbone: str, training: int, inference: int, multiply_adds: float) -> None:
    cost = model_cost(ModelConfig.preset("mmseg", backbone=backbone))
    assert (cost.training.parameters, cost.inference.parameters) == (training, inference)
    giga = {name: round(getattr(cost, name).multiply_adds / 1e9, 1) for name in ("backbone", "head", "aux_head")}
    assert giga == {"backbone": multiply_adds, "head": 40.2, "aux_head": 9.8}
    assert cost.jpu == Cost(parameters=0, multiply_adds=0)


def test_a_head_counted_by_hand() -> None:
    cost = model_cost(ModelConfig.preset("mmseg", num_classes=19), size=(504, 1016))
    pixels = 63 * 127
    project, encoding, gate = 512 * 512 * pixels, 2 * 32 * 512 * pixels, 512 * 512
    assert cost.context.multiply_adds == project + encoding + gate
    assert cost.head.multiply_adds == cost.context.multiply_adds + (9 * 2048 * 512 + 512 * 19) * pixels
    assert cost.se == Cost(parameters=512 * 19 + 19, multiply_adds=512 * 19)
    assert cost.aux_head.multiply_adds == (9 * 1024 * 256 + 256 * 19) * pixels
    assert cost.context.parameters == 512 * 512 + 2 * 512 + 32 * 512 + 32 + 2 * 32 + 512 * 512 + 512
    assert cost.size == (504, 1016)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"arch": "fcn", "lateral": True, "output_stride": 16, "input_scale": 0.5},
        {"jpu": True, "aux_context": True},
        {"aux": False, "se_loss": False},
        {"output_stride": 16, "lateral": True, "detail_channels": 3},
    ],
    ids=["encnet", "fcn-lateral", "jpu", "bare", "detail"],
)
def test_nothing_is_forgotten(changes: dict[str, object]) -> None:
    """torch counts what its convolutions and matrix products really do, on real numbers."""
    config = replace(ModelConfig(num_classes=5, backbone="resnet18", head_channels=16, num_codes=4), **changes)  # type: ignore[arg-type]
    model = build_model(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 70, 97), auxiliary=True)
    cost = model_cost(config, size=(70, 97))
    assert 2 * cost.training.multiply_adds == counter.get_total_flops()
    assert cost.training.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_multiply_adds_grow_with_the_area(preset: str) -> None:
    config = ModelConfig.preset(preset, backbone="resnet18")  # type: ignore[arg-type]
    small, large = model_cost(config, size=(128, 128)), model_cost(config, size=(256, 384))
    assert large.backbone.multiply_adds == 6 * small.backbone.multiply_adds
    assert (large.se, large.training.parameters) == (small.se, small.training.parameters)


def test_an_image_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="31x64 is too small: pad or resize to at least 32x32"):
        model_cost(ModelConfig(num_classes=2), size=(31, 64))
