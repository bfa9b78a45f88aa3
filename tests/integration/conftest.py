"""What the integration tests share: one small data set on S3, and tiny runs on it, each trained once."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import RunningStack
from tests.integration.command import json_result, run_encnet

NUM_TRAIN, NUM_VAL = 16, 6
BATCH_SIZE = 4
STEPS = 8
LEARNING_RATE = 0.002
TINY = (
    "train",
    "context_scenes_r18",
    "--augment.crop-size=64,64",
    "--model.output-stride=32",
    "--model.input-scale=1",  # at half size BatchNorm would have four values a channel, and magnify rounding
    "--model.lateral=false",
    "--optim.kind=sgd",  # adamw divides by tiny gradients in its first steps, and so magnifies rounding
    "--optim.warmup-steps=0",
    "--model.head-channels=32",
    f"--optim.batch-size={BATCH_SIZE}",
    f"--optim.lr={LEARNING_RATE}",
    "--validation.every-epochs=1",
    "--validation.pictures=2",
    "--json",
)
"""A run of the real recipe, small enough to take seconds."""


@dataclass(frozen=True)
class Trained:
    """A finished run: what the command said, and the JSON object it ended with."""

    process: subprocess.CompletedProcess[str]
    result: dict[str, Any]


@pytest.fixture(scope="session")
def scenes(stack: RunningStack) -> str:
    """The URI of a small ContextScenes on the stack's S3."""
    uri = "s3://encnet/tests/scenes"
    sizes = ("--train-samples", str(NUM_TRAIN), "--val-samples", str(NUM_VAL))
    assert json_result(run_encnet("data", "prepare", "context-scenes", "--dest", uri, *sizes, "--json"))["prepared"]
    return uri


@pytest.fixture(scope="session")
def trained(scenes: str) -> Trained:
    """A run on two workers."""
    return _train(scenes, "tiny", num_workers=2)


@pytest.fixture(scope="session")
def trained_alone(scenes: str) -> Trained:
    """The same run on one worker."""
    return _train(scenes, "tiny-alone", num_workers=1)


def _train(data: str, name: str, num_workers: int) -> Trained:
    done = run_encnet(
        *TINY,
        f"--data={data}",
        f"--name={name}",
        f"--registered-model=encnet-{name}",
        f"--optim.max-steps={STEPS}",
        f"--num-workers={num_workers}",
    )
    return Trained(process=done, result=json_result(done))
