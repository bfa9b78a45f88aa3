"""How a worker sets itself up: what it reads, and what it tells of it meanwhile."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import encnet
from pipeline import train_setup
from pipeline.config import DataConfig, LossConfig, RunConfig
from pipeline.errors import InputError
from pipeline.run_board import Pulse, silent_pulse
from pipeline.shards import read_dataset
from pipeline.storage import open_store
from pipeline.train_setup import class_weights, setup
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


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_class_weights_are_a_power_of_enets_with_mean_1(tmp_path: Path, power: float) -> None:
    write_made_up(tmp_path)
    dataset = read_dataset(open_store(str(tmp_path)))
    config = replace(_config(tmp_path), loss=LossConfig(class_weighting="enet", class_weight_power=power))
    counts = dataset.splits["train"].class_pixels
    plain = [math.log(1.02 + count / sum(counts)) ** -power for count in counts]
    expected = [weight * len(plain) / sum(plain) for weight in plain]
    weights = class_weights(config, dataset)
    assert weights is not None
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)
    assert class_weights(_config(tmp_path), dataset) is None
