"""Checkpoints of a training run: a folder of weights, optimizer state and the position in the run.

weights.safetensors    the model, its configuration in the header
ema.safetensors        the average of the weights over steps, where the run keeps one, in the same form
optimizer.pt           optimizer and gradient scaler, loadable with weights_only
state.json             step, samples consumed, identities that a resume checks, the loss of every step so far, size and
                       digest of the other files, and a digest of its own
scores.json            mIoU and IoU per class, where the weights were validated beside training

A checkpoint is taken in two parts: `take_snapshot` copies what training goes on changing, which is all that training
waits for, and `write_snapshot` writes the files from the copy. `checkpoint_store` has them on storage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import encnet
from pipeline.errors import InputError, StorageError, first_line

WEIGHTS = "weights.safetensors"
EMA = "ema.safetensors"
OPTIMIZER = "optimizer.pt"
STATE = "state.json"
SCORES = "scores.json"
_OWN_DIGEST = "sha256"


class BrokenCheckpoint(StorageError):
    """A checkpoint is not what was written. Names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """What a file of a checkpoint must be."""

    bytes: int
    sha256: str


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
    ended: str = ""
    """Why the run left the loop: "finished", "stopped" (on request), "early" (no better mIoU), or "" for it did not."""
    miou: float | None = None
    """Validation mIoU of these weights (of their average, where the run keeps one), in 0..1; None: not validated."""
    iou: list[float | None] = field(default_factory=list)
    """Per class, as `miou`; None for a class in neither truth nor prediction, empty where not validated."""
    is_scored_later: bool = False
    """The weights are validated beside training: `miou` and `iou` come to stand in scores.json."""
    best_miou: float = 0.0
    """Of those validated in the loop."""
    best_step: int = 0
    """The step that `best_miou` is of."""
    num_since_best: int = 0
    """Validations since then."""
    losses: list[float] = field(default_factory=list)
    """The loss of the global batch, one a step."""
    unlogged: list[list[float]] = field(default_factory=list)
    """`Meter.unlogged`: what the next points of curves are made of."""
    points: list[Any] = field(default_factory=list)
    """Points of curves that MLflow had not confirmed yet, as `Outbox.pending` gives them."""
    bad_samples: list[str] = field(default_factory=list)
    """A line for each training sample that could not be decoded, and another took the place of."""
    sample_ids: list[list[int]] = field(default_factory=list)
    """The rows of the train split's index shown in each step, by lane; empty unless the recipe asks for the record."""
    files: dict[str, StoredFile] = field(default_factory=dict)
    """Size and digest of the checkpoint's other files, by name."""

    @property
    def name(self) -> str:
        """The name of the folder of the checkpoint with this state."""
        return f"step_{self.step:07d}"

    @property
    def scored_weights(self) -> str:
        """The file that `miou` is of, and that is worth registering."""
        return EMA if EMA in self.files else WEIGHTS

    def scored(self, miou: float, iou: Sequence[float] = ()) -> RunState:
        """The state after a validation that found `miou`, and `iou` per class (NaN for one that is nowhere)."""
        scored = replace(self, miou=miou, iou=[None if isnan(each) else each for each in iou])
        if miou > self.best_miou or not self.best_step:
            return replace(scored, best_miou=miou, best_step=self.step, num_since_best=0)
        return replace(scored, num_since_best=self.num_since_best + 1)

    def to_json(self) -> str:
        """state.json's text."""
        values = asdict(self)
        return json.dumps({**values, _OWN_DIGEST: _digest_of(values)})

    @classmethod
    def from_json(cls, text: str | bytes) -> RunState:
        """Read state.json's text. Raises BrokenCheckpoint when it is not what was written."""
        try:
            values = json.loads(text)
            digest = values.pop(_OWN_DIGEST)
            if digest != _digest_of(values):
                raise BrokenCheckpoint(f"{STATE}: its digest is wrong")
            files = {name: StoredFile(**file) for name, file in values.pop("files").items()}
            return cls(**values, files=files)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BrokenCheckpoint(f"{STATE}: {first_line(error) or 'empty'}") from None


def _digest_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that goes into a checkpoint, copied to the CPU: training may go on while it is written."""

    config: encnet.ModelConfig
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    state: RunState


def take_snapshot(
    net: encnet.SegmentationNet,
    ema: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    state: RunState,
) -> Snapshot:
    """Copy everything as it is now. `ema`: `net` with averaged weights, where the run keeps an average."""
    return Snapshot(
        config=net.config,
        weights=_copied(net.state_dict()),
        ema=_copied(ema.state_dict()) if ema is not None else None,
        optimizer=_copied({"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}),
        state=state,
    )


def _copied(value: Any) -> Any:
    """The same nest of dicts and lists with copies of its tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    return value


def write_snapshot(folder: Path, snapshot: Snapshot) -> RunState:
    """Write a checkpoint into `folder`, state.json last; returns the state as written, with the files' digests.

    Raises StorageError when the folder can't take it.
    """
    try:
        encnet.save_weights(snapshot.weights, snapshot.config, folder / WEIGHTS)
        if snapshot.ema is not None:
            encnet.save_weights(snapshot.ema, snapshot.config, folder / EMA)
        torch.save(snapshot.optimizer, folder / OPTIMIZER)
        names = [WEIGHTS, OPTIMIZER] + ([EMA] if snapshot.ema is not None else [])
        state = replace(snapshot.state, files={name: _digest_file(folder / name) for name in names})
        (folder / STATE).write_text(state.to_json())
        return state
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors tell a full disk in their own way
        raise StorageError(
            f"{folder}: the checkpoint of step {snapshot.state.step} could not be written: {first_line(error)}: "
            "make room there, or name another folder in TMPDIR"
        ) from error


def _digest_file(path: Path) -> StoredFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return StoredFile(bytes=path.stat().st_size, sha256=digest)


def load_checkpoint(
    folder: Path,
    net: encnet.SegmentationNet,
    ema: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    expected: RunState,
    device: torch.device,
) -> RunState:
    """Load a checkpoint into all of them; InputError if it belongs to another order of samples or has no `ema`."""
    state = read_state(folder)
    for name in ("seed", "data_digest", "batch_size"):
        was, now = getattr(state, name), getattr(expected, name)
        if was != now:
            raise InputError(f"{name}: {now!r}, but the run to resume was started with {was!r}: use another --name")
    if (ema is not None) != (EMA in state.files):
        kind = "without" if ema is not None else "with"
        raise InputError(f"optim.ema_decay: the run to resume was started {kind} averaged weights: use another --name")
    encnet.load_weights(net, folder / WEIGHTS)
    if ema is not None:
        encnet.load_weights(ema, folder / EMA)
    saved = torch.load(folder / OPTIMIZER, map_location=device, weights_only=True)
    optimizer.load_state_dict(saved["optimizer"])
    scaler.load_state_dict(saved["scaler"])
    return state


def read_state(folder: Path) -> RunState:
    """The state of a checkpoint in a local folder."""
    return RunState.from_json((folder / STATE).read_text())
