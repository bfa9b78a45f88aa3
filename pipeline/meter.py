"""Losses and speeds of the training loop, gathered over ranks every few steps, not every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import TrainingError


class Meter:
    """Turns the local loss parts of steps into the losses of the global batch, points to log and progress.

    Args:
        steps: of the whole run.
        batch_size: images a step, over all ranks.
        num_samples: of the train split.
        losses: of the steps before this attempt began.
        post: shows progress; takes facts by name.
    """

    def __init__(
        self, steps: int, batch_size: int, num_samples: int, losses: Sequence[float], post: Callable[..., None]
    ) -> None:
        self.losses = list(losses)
        self.points: dict[int, dict[str, float]] = {}
        self._steps, self._batch_size, self._num_samples, self._post = steps, batch_size, num_samples, post
        self._pending: list[Tensor] = []
        self._since, self._wait_s = time.monotonic(), 0.0

    def add(self, parts: Tensor) -> None:
        """Take a step's loss parts (4,) of this rank: total, pixel, aux, SE."""
        self._pending.append(parts)

    def flush(self, step: int, lr: float, wait_s: float) -> None:
        """Reduce what is pending over ranks, keep it as points to log and show the progress: `step` steps are done.

        `lr`: the base learning rate of the last of them. `wait_s`: time that the loop has waited for data, in all.

        Raises TrainingError naming the step and the part whose loss is not finite.
        """
        if not self._pending:
            return
        table = torch.stack(self._pending).float()  # (steps, 4)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(table)
        rows = table.cpu().numpy().astype(np.float64)
        self._check_finite(rows, step - len(rows))
        elapsed = time.monotonic() - self._since
        rate = len(rows) * self._batch_size / elapsed
        total, pixel, aux, se = rows.mean(0).tolist()
        epochs = step * self._batch_size / self._num_samples
        self.points[step] = {
            "train/loss": total,
            "train/loss_pixel": pixel,
            "train/loss_aux": aux,
            "train/loss_se": se,
            "train/lr": lr,
            "train/images_per_s": rate,
            "train/data_wait_share": (wait_s - self._wait_s) / elapsed,
            "train/epoch": epochs,
        }
        self.losses += rows[:, 0].tolist()
        self._pending.clear()
        self._since, self._wait_s = time.monotonic(), wait_s
        self._post(step=step, steps=self._steps, epoch=f"{epochs:.1f}", loss=total, images_per_s=rate)

    def restart_clock(self) -> None:
        """Leave validation and checkpointing out of the training speed."""
        self._since = time.monotonic()

    @staticmethod
    def _check_finite(rows: np.ndarray, first_step: int) -> None:
        for step, row in enumerate(rows, start=first_step):
            bad = [
                name for name, loss in zip(("total", "pixel", "aux", "se"), row, strict=True) if not np.isfinite(loss)
            ]
            if bad:
                raise TrainingError(f"the {bad[-1]} loss is not finite at step {step}: lower --optim.lr")
