"""A small net in training, whose checkpoints tests take, break and load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

import encnet
from pipeline.checkpoint import RunState, Snapshot, load_checkpoint, take_snapshot
from pipeline.config import OptimConfig
from pipeline.ema import WeightAverage
from pipeline.optim import build_optimizer

CONFIG = encnet.ModelConfig(num_classes=3, backbone="resnet18", output_stride=32, head_channels=16)
BEGUN = RunState(seed=5, data_digest="abc", batch_size=2, config={"a": 1})


class SmallTraining:
    """A net with its optimizer and, if wanted, the average of its weights."""

    def __init__(self, seed: int = 0, *, averaged: bool = False) -> None:
        torch.manual_seed(seed)
        self.net = encnet.build_model(CONFIG)
        self.ema = WeightAverage(self.net, 0.9) if averaged else None
        self.optimizer = build_optimizer(self.net, OptimConfig(lr=0.05, head_lr_factor=2.0))
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def steps(self, first: int, stop: int) -> list[float]:
        """The losses of steps [first, stop), whose inputs depend on the step only."""
        losses = []
        for step in range(first, stop):
            images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(step))
            encnet.set_dropout_key(self.net, 0, step, torch.arange(2))
            self.optimizer.zero_grad()
            loss = self.net(images).logits.square().mean()
            loss.backward()
            self.optimizer.step()
            if self.ema:
                self.ema.update(self.net, step)
            losses.append(loss.item())
        return losses

    def snapshot(self, state: RunState = BEGUN) -> Snapshot:
        ema = self.ema.net if self.ema else None
        return take_snapshot(self.net, ema, self.optimizer, self.scaler, state)

    def load(self, folder: Path, expected: RunState = BEGUN) -> RunState:
        ema = self.ema.net if self.ema else None
        return load_checkpoint(folder, self.net, ema, self.optimizer, self.scaler, expected, torch.device("cpu"))


def tiny_snapshot(step: int, miou: float | None = None) -> Snapshot:
    """A snapshot of next to nothing, for tests that do not load it into a net."""
    values = torch.arange(100.0) + step
    state = replace(BEGUN, step=step, samples=2 * step, miou=miou)
    return Snapshot(config=CONFIG, weights={"a": values}, ema=None, optimizer={"optimizer": {"a": values}}, state=state)
