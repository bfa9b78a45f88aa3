"""What a run shows of its validation split: samples from all over it, the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import encnet
from pipeline import validation
from pipeline.config import DataConfig, RunConfig, ValidationConfig
from pipeline.shard_writer import write_dataset
from pipeline.storage import LocalStore
from pipeline.train_setup import Worker, setup
from pipeline.validation import spread, val_pictures
from pipeline.world import World
from tests.unit.pipeline.made_up_data import CLASSES, PALETTE, colours, make_samples

MODEL = encnet.ModelConfig(num_classes=len(CLASSES), backbone="resnet18", output_stride=32, head_channels=16)
SIZES = ((64, 64), (64, 96))
NUM_VAL = 11


@given(st.integers(1, 10_000), st.integers(0, 40))
def test_places_are_spread_over_all(num_samples: int, count: int) -> None:
    places = spread(num_samples, count)
    assert len(places) == min(num_samples, count)
    assert places[:1] == [0][:count]
    gaps = np.diff([*places, num_samples])
    if places:
        assert num_samples // len(places) <= gaps.min()
        assert gaps.max() <= -(-num_samples // len(places))


def _worker(root: Path, pictures: int) -> Worker:
    splits = {"train": make_samples(4, sizes=SIZES), "val": make_samples(NUM_VAL, seed=1, sizes=SIZES)}
    write_dataset(
        LocalStore(root=root), splits, name="x", version="1", classes=CLASSES, palette=PALETTE, samples_per_shard=3
    )
    config = RunConfig(
        model=MODEL, data=DataConfig(uri=str(root)), validation=ValidationConfig(pictures=pictures)
    )  # fmt: skip
    return setup(config, World(), torch.device("cpu"))


def test_pictures_are_of_samples_spread_over_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Any, ...]] = []
    made = validation.sample_picture

    def noted(*of: Any) -> np.ndarray:
        shown.append(of)
        return made(*of)

    monkeypatch.setattr(validation, "sample_picture", noted)
    worker = _worker(tmp_path, pictures=4)
    pictures = val_pictures(worker)
    assert [key for key, *_ in shown] == ["s0000", "s0002", "s0005", "s0008"]
    expected = make_samples(NUM_VAL, seed=1, sizes=SIZES)
    for (key, image, truth, prediction, *_), picture in zip(shown, pictures, strict=True):
        label = expected[int(key[1:])].label
        assert np.array_equal(truth, label)
        assert np.array_equal(image, colours(label))
        assert prediction.shape == label.shape
        assert picture.dtype == np.uint8
    again = val_pictures(worker)
    assert all(np.array_equal(*pair) for pair in zip(pictures, again, strict=True))


@pytest.mark.parametrize(("wanted", "count"), [(0, 0), (99, NUM_VAL)])
def test_no_more_pictures_than_there_are(tmp_path: Path, wanted: int, count: int) -> None:
    assert len(val_pictures(_worker(tmp_path, wanted))) == count
