"""Losses and speeds of the training loop, gathered over ranks every few steps, not every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import Diverged, TrainingError

_COLUMNS = ("total", "pixel", "aux", "se", "gradient")
MAX_SKIPPED = 40
"""Steps in a row that fp16 may skip: the gradient's scale has fallen from 2 ** 16 to 2 ** -24 by then."""


class Meter:
    """Turns what the steps gave on this rank into the losses of the global batch, points to log and progress.

    Args:
        steps: of the whole run.
        batch_size: images a step, over all ranks.
        num_samples: of the train split.
        losses: of the steps before this attempt began.
        unlogged: what `unlogged` was then.
        post: shows progress; takes facts by name.
        may_skip: in fp16 a step whose gradient is not finite is skipped; else it ends the run.
    """

    def __init__(
        self,
        steps: int,
        batch_size: int,
        num_samples: int,
        losses: Sequence[float],
        unlogged: Sequence[Sequence[float]],
        post: Callable[..., None],
        may_skip: bool = False,
    ) -> None:
        self.losses = list(losses)
        """Of the global batch, one a step."""
        self.unlogged = [list(row) for row in unlogged]
        """The total, pixel, aux and SE loss and the gradient's norm of each step that is in no point yet."""
        self.points: dict[int, dict[str, float]] = {}
        self._steps, self._batch_size, self._num_samples, self._post = steps, batch_size, num_samples, post
        self._may_skip, self._skipped_in_a_row = may_skip, 0
        self._pending: list[Tensor] = []
        self._since = self._stalled_at = time.monotonic()
        self._num_since, self._wait_s = 0, 0.0
        self._bytes_read = 0
        self._read_mb = 0.0  # of all ranks, since the last point
        self._stall_s = 0.0

    def add(self, parts: Tensor) -> None:
        """Take what `train_step` gave: this rank's share (5,) of the total, pixel, aux and SE loss and the norm."""
        self._pending.append(parts)

    def gather(self, step: int, bytes_read: int = 0) -> None:
        """Reduce what is pending over ranks, and the bytes that each has read: `step` steps are done.

        Raises Diverged naming the first step whose loss or gradient is not finite, and which: on all ranks. What
        is written after this is therefore sound.
        """
        if not self._pending:
            return
        read = torch.zeros_like(self._pending[0])
        read[0] = bytes_read / 1e6
        table = torch.stack([*self._pending, read]).float()  # (steps + 1, 5)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(table)
        rows = table.cpu().numpy().astype(np.float64)
        self._read_mb += float(rows[-1, 0])
        rows = rows[:-1]
        for number, row in enumerate(rows, start=step - len(rows)):
            self._check(row, number)
        self.losses += rows[:, 0].tolist()
        self.unlogged += rows.tolist()
        self._num_since += len(rows)
        self._pending.clear()

    def log(self, step: int, lr: float, wait_s: float, bytes_read: int) -> None:
        """Make the steps up to `step`, all that are in no point yet, into points, and show the progress.

        `lr`: the base learning rate of the last of them. `wait_s`: time that the loop has waited for data, in all;
        `bytes_read`: what it has read from storage, in all. Of these two the waiting is told as this rank's own.

        Raises TrainingError as `gather` does.
        """
        self.gather(step, bytes_read - self._bytes_read)
        rows = np.array(self.unlogged)
        elapsed = time.monotonic() - self._since
        rate = self._num_since * self._batch_size / elapsed
        total, pixel, aux, se = rows[:, :4].mean(0).tolist()
        epochs = step * self._batch_size / self._num_samples
        self.points[step] = {
            "train/loss": total,
            "train/loss_pixel": pixel,
            "train/loss_aux": aux,
            "train/loss_se": se,
            "train/lr": lr,
            "train/images_per_s": rate,
            "train/data_wait_share": (wait_s - self._wait_s) / elapsed,
            "train/read_mb_per_s": self._read_mb / elapsed,
            "train/epoch": epochs,
        }
        if self._stall_s:
            share = self._stall_s / (time.monotonic() - self._stalled_at)
            self.points[step] |= {"train/checkpoint_stall_s": self._stall_s, "train/checkpoint_stall_share": share}
            self._stall_s, self._stalled_at = 0.0, time.monotonic()
        norms = rows[np.isfinite(rows[:, 4]), 4]
        if len(norms):
            self.points[step]["train/grad_norm"] = float(norms.mean())
        if self._may_skip:
            self.points[step]["train/skipped_steps"] = len(rows) - len(norms)
        self.unlogged = []
        self._since, self._num_since, self._wait_s = time.monotonic(), 0, wait_s
        self._bytes_read, self._read_mb = bytes_read, 0.0
        self._post(step=step, steps=self._steps, epoch=f"{epochs:.1f}", loss=total, images_per_s=rate)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave validation and checkpointing out of the training speed."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - began

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """The loop stands still, for a checkpoint: how long, and its share of the time since, is in the next point."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._stall_s += time.monotonic() - began

    def _check(self, row: np.ndarray, step: int) -> None:
        """Raise for a step that spoiled the weights; count those that fp16 skipped."""
        bad = [name for name, value in zip(_COLUMNS, row, strict=True) if not np.isfinite(value)]
        if bad == ["gradient"] and self._may_skip:
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row == MAX_SKIPPED:
                raise TrainingError(f"the gradient overflows in fp16 at every step up to {step}: use --precision bf16")
        elif bad:
            part = next((name for name in ("pixel", "aux", "se") if name in bad), bad[0])
            what = part if part == "gradient" else f"{part} loss"
            raise Diverged(f"the {what} is not finite at step {step}: lower --optim.lr, or set --optim.grad-clip")
        else:
            self._skipped_in_a_row = 0
