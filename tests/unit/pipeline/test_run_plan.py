"""What a run is going to do, in figures, against counting it out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import encnet
from pipeline.checkpoint import write_snapshot
from pipeline.config import CheckpointConfig, OptimConfig, RunConfig, ValidationConfig
from pipeline.memory_estimate import StepMemory, step_memory
from pipeline.run_plan import plan_run, validated_steps
from pipeline.shards import SplitInfo
from pipeline.transforms import TransformConfig
from tests.unit.pipeline.small_training import CONFIG, SmallTraining

MEMORY = StepMemory(images=2, weights=100, average=0, gradients=90, optimizer=80, activations=500, peak=900)
MODEL = encnet.ModelConfig(num_classes=3, backbone="resnet18", output_stride=32, head_channels=16)


def split(samples: int, num_bytes: int) -> SplitInfo:
    return SplitInfo(samples=samples, shards=1, bytes=num_bytes, digest="", class_pixels=(1, 1, 1))


@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 20), st.integers(1, 7))
def test_validations_are_at_the_ends_of_epochs_and_of_the_run(
    steps: int, num_samples: int, batch_size: int, every: int
) -> None:
    found = validated_steps(steps, num_samples, batch_size, every)
    assert found == sorted(set(found))
    assert found[-1] == steps
    if batch_size > num_samples:
        return  # several epochs end with one step, which counts once
    # By counting: an epoch is over with the batch that holds its last sample.
    ends = [
        step
        for step in range(1, steps + 1)
        if step * batch_size // num_samples > (step - 1) * batch_size // num_samples
    ]
    assert [step for step in found if step < steps] == [
        step for number, step in enumerate(ends, start=1) if number % every == 0 and step < steps
    ]


def test_a_plan_in_figures() -> None:
    config = RunConfig(
        model=MODEL,
        augment=TransformConfig(crop_size=(64, 64)),
        optim=OptimConfig(lr=0.1, epochs=2.5, batch_size=4, warmup_steps=2),
        validation=ValidationConfig(every_epochs=1),
        checkpoint=CheckpointConfig(keep_last=2, keep_best=1),
    )
    plan = plan_run(config, split(40, 1000), split(10, 300), MEMORY)
    assert (plan.steps, plan.epochs, plan.samples) == (25, 2.5, 100)
    assert plan.checkpoint_steps == [10, 20, 25]
    assert plan.validations == 3
    assert (plan.epoch_bytes, plan.validation_bytes, plan.total_bytes) == (1000, 300, 2500 + 900)
    assert plan.checkpoint_bytes == {"weights": 100, "optimizer": 80}
    assert plan.kept_bytes == 4 * 180
    assert len(plan.learning_rates) == 25
    assert plan.learning_rates[0] == 0.05
    assert plan.learning_rates[-1] == pytest.approx(0.1 * (1 / 25) ** 0.9)
    averaged = plan_run(config, split(40, 1000), split(10, 300), replace(MEMORY, average=100))
    assert averaged.checkpoint_bytes == {"weights": 100, "optimizer": 80, "average": 100}


def test_arithmetic_is_what_torch_counts() -> None:
    net = encnet.build_model(MODEL)
    with FlopCounterMode(display=False) as counter:
        outputs = net(torch.zeros(2, 3, 64, 64), upsample=False)
        sum(output.sum() for output in outputs).backward()
    config = RunConfig(
        model=MODEL, augment=TransformConfig(crop_size=(64, 64)), optim=OptimConfig(max_steps=3, batch_size=2)
    )
    plan = plan_run(config, split(40, 1000), split(10, 300), MEMORY)
    # The first layer needs no gradient of its input.
    assert plan.flop == pytest.approx(3 * counter.get_total_flops(), rel=0.1)


def test_the_rate_of_long_runs_is_sampled_from_end_to_end() -> None:
    config = RunConfig(model=MODEL, augment=TransformConfig(crop_size=(64, 64)), optim=OptimConfig(max_steps=10_000))
    rates = plan_run(config, split(40, 1000), split(10, 300), MEMORY).learning_rates
    assert len(rates) == 60
    assert rates[0] == config.optim.lr
    assert rates[-1] == pytest.approx(config.optim.lr * (1 / 10_000) ** 0.9)
    assert rates == sorted(rates, reverse=True)


def test_checkpoints_are_as_large_as_planned(tmp_path: Path) -> None:
    training = SmallTraining(averaged=True)
    training.steps(0, 1)
    state = write_snapshot(tmp_path, training.snapshot())
    config = RunConfig(
        model=CONFIG, augment=TransformConfig(crop_size=(64, 64)), optim=OptimConfig(batch_size=2, ema_decay=0.9)
    )
    plan = plan_run(config, split(4, 10), split(4, 10), step_memory(config, 1, gpu=False))
    names = {"weights": "weights.safetensors", "optimizer": "optimizer.pt", "average": "ema.safetensors"}
    for part, planned in plan.checkpoint_bytes.items():
        assert math.isclose(planned, state.files[names[part]].bytes, rel_tol=0.02), part
    assert len(plan.checkpoint_bytes) == len(state.files)
