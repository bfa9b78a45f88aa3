"""How long a run is, and its learning rate at every step: pure functions."""

from __future__ import annotations

import math

from pipeline.config import OptimConfig


def num_steps(num_samples: int, optim: OptimConfig) -> int:
    """Steps of the whole run over a split of `num_samples`."""
    return optim.max_steps or math.ceil(optim.epochs * num_samples / optim.batch_size)


def epoch_end(epoch: int, num_samples: int, batch_size: int) -> int:
    """The step count at which the last sample of `epoch` (0, 1, ...) has been consumed."""
    return math.ceil((epoch + 1) * num_samples / batch_size)


def is_validated(step: int, steps: int, num_samples: int, batch_size: int, every_epochs: int) -> bool:
    """Whether the weights after `step` of `steps` are validated: at the ends of some epochs, and of the run."""
    if step == 0:
        return False
    epoch = (step - 1) * batch_size // num_samples
    ends_epoch = step == epoch_end(epoch, num_samples, batch_size)
    return step == steps or (ends_epoch and (epoch + 1) % every_epochs == 0)


def learning_rate(step: int, steps: int, optim: OptimConfig) -> float:
    """The base learning rate at `step` (0, 1, ...) of `steps`.

    From `lr` to `min_lr` along the schedule, as mmengine's PolyLR and CosineAnnealingLR; warm-up multiplies it by
    (step + 1) / warmup_steps.
    """
    warm_up = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    return warm_up * (optim.min_lr + (optim.lr - optim.min_lr) * _decay(min(1.0, step / steps), optim))


def _decay(done: float, optim: OptimConfig) -> float:
    """What is left of the learning rate above its minimum when a share `done` of the steps is: from 1 on down."""
    match optim.schedule:
        case "poly":
            return (1.0 - done) ** optim.power
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case "constant":
            return 1.0
