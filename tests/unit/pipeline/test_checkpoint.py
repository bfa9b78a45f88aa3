"""Checkpoints: what is loaded goes on as if it had never stopped, and only in the run it belongs to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import encnet
from pipeline.checkpoint import OPTIMIZER, STATE, WEIGHTS, RunState, load_checkpoint, read_state, save_checkpoint
from pipeline.config import OptimConfig
from pipeline.errors import InputError
from pipeline.optim import build_optimizer

CPU = torch.device("cpu")
CONFIG = encnet.ModelConfig(num_classes=3, backbone="resnet18", output_stride=32, head_channels=16)
STATE_NOW = RunState(
    step=2, samples=4, seed=5, data_digest="abc", batch_size=2, config={"a": 1}, miou=0.25, losses=[1.5, 0.1]
)


class _Training:
    """A small net with its optimizer."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.net = encnet.build_model(CONFIG)
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
            losses.append(loss.item())
        return losses

    def save(self, folder: Path, state: RunState = STATE_NOW) -> None:
        save_checkpoint(folder, self.net, CONFIG, self.optimizer, self.scaler, state)

    def load(self, folder: Path, expected: RunState = STATE_NOW) -> RunState:
        return load_checkpoint(folder, self.net, self.optimizer, self.scaler, expected, CPU)


def test_a_resumed_run_has_the_same_losses_to_the_last_bit(tmp_path: Path) -> None:
    through = _Training(seed=0)
    through.steps(0, 2)
    through.save(tmp_path)
    resumed = _Training(seed=1)
    assert resumed.load(tmp_path) == STATE_NOW
    assert resumed.steps(2, 5) == through.steps(2, 5)


def test_the_files_are_those_that_others_can_read(tmp_path: Path) -> None:
    _Training(seed=0).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([WEIGHTS, OPTIMIZER, STATE])
    assert read_state(tmp_path) == STATE_NOW
    assert json.loads((tmp_path / STATE).read_text())["losses"] == [1.5, 0.1]
    saved = torch.load(tmp_path / OPTIMIZER, weights_only=True)
    assert set(saved) == {"optimizer", "scaler"}
    _, config = encnet.load_model(tmp_path / WEIGHTS)
    assert config == CONFIG


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 6}, "seed: 6, but the run to resume was started with 5: use another --name"),
        ({"data_digest": "x"}, "data_digest: 'x', but the run to resume was started with 'abc': use another --name"),
        ({"batch_size": 8}, "batch_size: 8, but the run to resume was started with 2: use another --name"),
    ],
)
def test_another_order_of_samples_is_refused(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    _Training(seed=0).save(tmp_path)
    other = _Training(seed=1)
    before = [parameter.detach().clone() for parameter in other.net.parameters()]
    with pytest.raises(InputError) as caught:
        other.load(tmp_path, replace(STATE_NOW, **changed))  # type: ignore[arg-type]
    assert str(caught.value) == message
    for was, parameter in zip(before, other.net.parameters(), strict=True):
        assert torch.equal(was, parameter.detach())
