"""What a run is going to do, worked out before it starts: steps, validations, bytes, learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import encnet
from pipeline.config import RunConfig
from pipeline.memory_estimate import StepMemory
from pipeline.schedule import is_validated, learning_rate, num_steps
from pipeline.shards import SplitInfo

CURVE_POINTS = 60
_FLOP_PER_MULTIPLY_ADD = 2
_PASSES = 3
"""One forward; a backward is two, for the gradients of the inputs and of the weights."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run in figures."""

    steps: int
    epochs: float
    """Passes over the train split."""
    samples: int
    """Training samples that are seen, each as often as it is."""
    validations: int
    checkpoint_steps: list[int]
    """Steps after which there is a checkpoint; those by time come on top."""
    epoch_bytes: int
    """Of the shards that one epoch reads, over all workers."""
    validation_bytes: int
    """Of the shards that one validation reads, over all workers."""
    total_bytes: int
    """Read by the whole run."""
    checkpoint_bytes: dict[str, int]
    """Of one checkpoint: weights, optimizer and, where there is one, average."""
    kept_bytes: int
    """Of all checkpoints that are kept, at most, while the run goes on."""
    flop: float
    """Floating point operations of all training steps, as `encnet.model_cost` counts them, backward included."""
    learning_rates: list[float]
    """Base learning rate at evenly spaced steps, the first and the last among them."""


def plan_run(config: RunConfig, train: SplitInfo, val: SplitInfo, memory: StepMemory) -> RunPlan:
    """The plan of a run over these splits, of a network as large as in `memory`."""
    optim = config.optim
    steps = num_steps(train.samples, optim)
    validated = validated_steps(steps, train.samples, optim.batch_size, config.validation.every_epochs)
    epochs = steps * optim.batch_size / train.samples
    files = {"weights": memory.weights, "optimizer": memory.optimizer, "average": memory.average}
    cost = encnet.model_cost(config.model, config.augment.crop_size).training
    num_points = min(CURVE_POINTS, steps)
    return RunPlan(
        steps=steps,
        epochs=epochs,
        samples=steps * optim.batch_size,
        validations=len(validated),
        checkpoint_steps=validated,
        epoch_bytes=train.bytes,
        validation_bytes=val.bytes,
        total_bytes=math.ceil(epochs * train.bytes) + len(validated) * val.bytes,
        checkpoint_bytes={name: size for name, size in files.items() if size},
        # The newest is on its way while those to be dropped are still there.
        kept_bytes=(config.checkpoint.keep_last + config.checkpoint.keep_best + 1) * sum(files.values()),
        flop=float(_FLOP_PER_MULTIPLY_ADD * _PASSES * cost.multiply_adds * steps * optim.batch_size),
        learning_rates=[
            learning_rate(point * (steps - 1) // max(1, num_points - 1), steps, optim) for point in range(num_points)
        ],
    )


def validated_steps(steps: int, num_samples: int, batch_size: int, every_epochs: int) -> list[int]:
    """After which steps a run validates."""
    return [step for step in range(1, steps + 1) if is_validated(step, steps, num_samples, batch_size, every_epochs)]
