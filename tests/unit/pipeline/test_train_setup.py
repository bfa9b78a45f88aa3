"""How a worker sets itself up: what it reads, and what it tells of it meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import encnet
from pipeline import train_setup
from pipeline.config import DataConfig, RunConfig
from pipeline.errors import InputError
from pipeline.run_board import Pulse, silent_pulse
from pipeline.train_setup import setup
from pipeline.world import World
from tests.unit.pipeline.made_up_data import CLASSES, noting_store, write_made_up

CPU = torch.device("cpu")


class NotingPulse(Pulse):
    """Keeps the places that it is told of."""

    def __init__(self) -> None:
        super().__init__(silent_pulse)
        self.places: list[tuple[int, str]] = []

    def at(self, step: int, phase: str) -> None:
        self.places.append((step, phase))


def _config(uri: Path) -> RunConfig:
    model = encnet.ModelConfig(num_classes=len(CLASSES), backbone="resnet18", output_stride=32, head_channels=16)
    return RunConfig(model=model, data=DataConfig(uri=str(uri)))


def test_a_worker_is_ready_for_the_others_once_it_has_read_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_made_up(tmp_path)
    pulse = NotingPulse()
    met: list[list[tuple[int, str]]] = []

    def meet(net: nn.Module, world: World) -> nn.Module:
        met.append(list(pulse.places))
        return net

    monkeypatch.setattr(train_setup, "_distribute", meet)
    setup(_config(tmp_path), World(), CPU, pulse=pulse)
    assert met == [[(0, "ready")]]
    (tmp_path / "val/index.parquet").unlink()
    pulse = NotingPulse()
    with pytest.raises(InputError, match="the index is missing"):
        setup(_config(tmp_path), World(), CPU, pulse=pulse)
    assert pulse.places == []


def test_each_description_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_made_up(tmp_path)
    store, reads = noting_store(tmp_path)
    monkeypatch.setattr(train_setup, "open_store", lambda uri: store)
    worker = setup(_config(tmp_path), World(), CPU)
    assert (len(worker.train_index), len(worker.val_index)) == (23, 7)
    assert sorted(key for key, _, _ in reads) == ["dataset.json", "train/index.parquet", "val/index.parquet"]
