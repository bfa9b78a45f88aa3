"""Checkpoints of a training run: a folder of weights, optimizer state and the position in the run.

weights.safetensors    the model, its configuration in the header
optimizer.pt           optimizer and gradient scaler, loadable with weights_only
state.json             step, samples consumed, identities that a resume checks, the loss of every step so far
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import encnet
from pipeline.errors import InputError

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.pt"
STATE = "state.json"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run is, and what it is a run of."""

    step: int = 0
    """Optimizer steps done."""
    samples: int = 0
    """Samples consumed: the whole of the data position."""
    seed: int
    data_digest: str
    batch_size: int
    config: dict[str, Any]
    """The resolved configuration."""
    miou: float = 0.0
    """Validation mIoU of these weights, in 0..1."""
    best_miou: float = 0.0
    losses: list[float] = field(default_factory=list)
    """The loss of the global batch, one a step."""
    bad_samples: list[str] = field(default_factory=list)
    """A line for each training sample that could not be decoded, and another took the place of."""


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    config: encnet.ModelConfig,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    state: RunState,
) -> None:
    """Write a checkpoint into `folder`."""
    encnet.save_weights(model, config, folder / WEIGHTS)
    torch.save({"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}, folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(asdict(state)))


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    expected: RunState,
    device: torch.device,
) -> RunState:
    """Load a checkpoint into model and optimizer; raise InputError if it belongs to another order of samples."""
    state = read_state(folder)
    for name in ("seed", "data_digest", "batch_size"):
        was, now = getattr(state, name), getattr(expected, name)
        if was != now:
            raise InputError(f"{name}: {now!r}, but the run to resume was started with {was!r}: use another --name")
    encnet.load_weights(model, folder / WEIGHTS)
    saved = torch.load(folder / OPTIMIZER, map_location=device, weights_only=True)
    optimizer.load_state_dict(saved["optimizer"])
    scaler.load_state_dict(saved["scaler"])
    return state


def read_state(folder: Path) -> RunState:
    """The state of a checkpoint in a local folder."""
    return RunState(**json.loads((folder / STATE).read_text()))
