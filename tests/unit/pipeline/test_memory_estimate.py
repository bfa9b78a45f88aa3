"""The estimate of a step's memory against what torch's allocator hands out in a real step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import encnet
from pipeline.config import OptimConfig, RunConfig
from pipeline.memory_estimate import LiveTensors, step_memory
from pipeline.optim import build_optimizer
from pipeline.transforms import TransformConfig

MODEL = encnet.ModelConfig(num_classes=11, backbone="resnet18", output_stride=16, head_channels=64, lateral=True)
CONFIG = RunConfig(
    model=MODEL, augment=TransformConfig(crop_size=(96, 128)), optim=OptimConfig(kind="adamw", batch_size=6)
)


def real_peak(config: RunConfig) -> int:
    """The most bytes that two real steps of one worker hold, by torch's own account of its allocator."""
    height, width = config.augment.crop_size
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        net = encnet.build_model(config.model)
        optimizer = build_optimizer(net, config.optim)
        loss = encnet.SegmentationLoss()
        for _ in range(2):
            optimizer.zero_grad()
            for _ in range(config.optim.batch_size // config.optim.group_size):
                images = torch.zeros(config.optim.group_size, height, width, 3, dtype=torch.uint8)
                labels = torch.randint(config.model.num_classes, images.shape[:3])
                with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
                    output = net(encnet.normalize(images, torch.contiguous_format), upsample=False)
                total = loss(output, labels).total
                total.backward()
                del output, total
            optimizer.step()
    live = peak = 0
    events: list[Any] = [one for one in profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
    for event in sorted(events, key=lambda one: one.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, optim=OptimConfig(batch_size=6, micro_batch=2)),
        replace(CONFIG, precision="bf16", model=replace(MODEL, arch="fcn", aux=False)),
    ],
    ids=["accumulated", "bf16"],
)
def test_it_is_what_a_real_step_holds(config: RunConfig) -> None:
    # What a kernel takes for itself is not seen: on CPUs a convolution's copy of its weights, 9 MB of 173 here.
    assert step_memory(config, 1, gpu=False).peak == pytest.approx(real_peak(config), rel=0.08)


def test_parts() -> None:
    whole = step_memory(CONFIG, 1, gpu=False)
    parameters = encnet.model_cost(MODEL, (96, 128)).training.parameters
    assert whole.images == 6
    assert whole.gradients == 4 * parameters
    assert whole.optimizer == pytest.approx(2 * whole.gradients, rel=1e-3)
    assert whole.gradients < whole.weights < 1.01 * whole.gradients
    assert whole.average == 0
    assert whole.peak > whole.weights + whole.optimizer + whole.activations


def test_more_workers_hold_fewer_images_each() -> None:
    one, four = (step_memory(CONFIG, workers, gpu=False) for workers in (1, 4))
    assert four.images == 2
    assert four.activations == pytest.approx(one.activations / 3, rel=0.02)
    assert four.weights == one.weights


def test_options_show() -> None:
    plain = step_memory(CONFIG, 2, gpu=False)
    averaged = step_memory(replace(CONFIG, optim=replace(CONFIG.optim, ema_decay=0.99)), 2, gpu=False)
    assert averaged.average == averaged.weights
    assert averaged.peak == pytest.approx(plain.peak + plain.weights, rel=0.02)
    frozen = step_memory(replace(CONFIG, optim=replace(CONFIG.optim, freeze="backbone")), 2, gpu=False)
    assert frozen.gradients < 0.5 * plain.gradients
    assert frozen.activations < 0.7 * plain.activations
    large = replace(
        CONFIG, augment=TransformConfig(crop_size=(480, 480))
    )  # beside which bf16 copies of weights are small
    halved = step_memory(replace(large, precision="bf16"), 2, gpu=False)
    assert halved.activations < 0.7 * step_memory(large, 2, gpu=False).activations


def test_a_crop_too_small_for_the_network_is_told() -> None:
    small = replace(CONFIG, model=replace(MODEL, input_scale=0.25))
    with pytest.raises(ValueError, match="96x128 is too small"):
        step_memory(small, 1, gpu=False)


def test_live_tensors_are_counted_until_they_are_gone() -> None:
    with LiveTensors() as tensors:
        first = torch.zeros(1000)
        view = first[10:]
        assert tensors.live == 4000
        second = torch.ones(500, dtype=torch.float64)
        del first
        assert tensors.live == 8000
        del view, second
        assert (tensors.live, tensors.peak) == (0, 8000)
