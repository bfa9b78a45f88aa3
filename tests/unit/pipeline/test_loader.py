"""Loaders: the same global batches for any number of ranks, from any step, with any memory; faults are named."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.errors import DataError, InputError, StorageError
from pipeline.eval_loader import EvalLoader
from pipeline.loader import Batch, TrainLoader
from pipeline.order import Order, plan_blocks
from pipeline.sample_reader import SampleReader
from pipeline.shard_writer import write_dataset
from pipeline.shards import ShardIndex, read_index, run_checksum
from pipeline.storage import LocalStore, Store, Versioned
from pipeline.transforms import TransformConfig
from pipeline.world import World
from tests.unit.pipeline.made_up_data import (
    CLASSES,
    PALETTE,
    SIZES,
    WatchedStore,
    make_samples,
    noting_store,
    write_made_up,
)

TRANSFORM = TransformConfig(crop_size=(32, 40), rotate_degrees=10)
BATCH_SIZE = 6
NUM_TRAIN = 23


class GlobalBatch:
    """What all ranks' parts of a micro-batch say, put back in the order of the lanes."""

    def __init__(self, parts: list[Batch]) -> None:
        lanes = torch.cat([part.positions for part in parts])
        order = torch.argsort(lanes)
        assert len({(part.step, part.micro_step, part.consumed) for part in parts}) == 1
        self.lanes = lanes[order].tolist()
        self.samples = torch.cat([part.sample_ids for part in parts])[order].tolist()
        self.pixels = torch.cat([part.images for part in parts])[order].numpy()
        self.labels = torch.cat([part.labels for part in parts])[order].numpy()
        self.at = (parts[0].step, parts[0].micro_step, parts[0].consumed)

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, GlobalBatch)
        same = (self.lanes, self.samples, self.at) == (other.lanes, other.samples, other.at)
        return same and np.array_equal(self.pixels, other.pixels) and np.array_equal(self.labels, other.labels)

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made-up")
    write_made_up(root, num_train=NUM_TRAIN)
    return root


@pytest.fixture
def store(root: Path) -> Store:
    return LocalStore(root=root)


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("encnet")] == []


def _order(index: ShardIndex, batch_size: int = BATCH_SIZE) -> Order:
    bounds = plan_blocks(index.shard, index.offset, index.length, block_bytes=8_000)
    return Order(bounds, seed=5, batch_size=batch_size, window=4)


def _batches(store: Store, count: int, world_size: int = 1, **options: Any) -> list[GlobalBatch]:
    """The first `count` micro-batches that `world_size` ranks give together."""
    index = read_index(store, "train")
    parts = []
    for rank in range(world_size):
        with TrainLoader(
            store, index, _order(index), world=World(rank, world_size), transform=TRANSFORM, seed=9, **options
        ) as loader:  # fmt: skip
            parts.append(list(islice(loader, count)))
    return [GlobalBatch(list(ranks)) for ranks in zip(*parts, strict=True)]


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_any_number_of_ranks_gives_the_same_batches(store: Store, world_size: int) -> None:
    assert _batches(store, 10, world_size) == _batches(store, 10)


@pytest.mark.parametrize(
    "options",
    [{"threads": 4}, {"lookahead": 1}, {"memory_bytes": 1}, {"memory_bytes": 30_000, "threads": 3}],
    ids=["threads", "lookahead", "no memory", "little memory"],
)
def test_how_it_is_done_does_not_show(store: Store, options: dict[str, int]) -> None:
    assert _batches(store, 10, **options) == _batches(store, 10)


def test_micro_batches_cut_a_batch_up(store: Store) -> None:
    whole = _batches(store, 5)
    parts = _batches(store, 15, world_size=3, micro_batch=2)
    for step, batch in enumerate(whole):
        three = parts[3 * step : 3 * step + 3]
        assert [part.at for part in three] == [(step, k, 6 * step + 2 * (k + 1)) for k in range(3)]
        assert [part.lanes for part in three] == [[0, 1], [2, 3], [4, 5]]
        assert [sample for part in three for sample in part.samples] == batch.samples
        assert np.array_equal(np.concatenate([part.pixels for part in three]), batch.pixels)


def test_a_rank_may_have_nothing_in_a_micro_batch(store: Store) -> None:
    index = read_index(store, "train")
    with TrainLoader(
        store, index, _order(index), world=World(2, 3), transform=TRANSFORM, seed=9, micro_batch=1
    ) as loader:
        parts = list(islice(loader, 3))
    assert [part.images.shape for part in parts] == [(0, 32, 40, 3), (0, 32, 40, 3), (1, 32, 40, 3)]
    assert parts[2].positions.tolist() == [2]


def test_a_resumed_loader_gives_the_rest(store: Store) -> None:
    assert _batches(store, 6, world_size=2, start_step=7) == _batches(store, 13)[7:]


def test_batches_follow_the_order_and_each_epoch_holds_each_sample_once(store: Store) -> None:
    index = read_index(store, "train")
    seen = [sample for batch in _batches(store, 16) for sample in batch.samples]
    assert seen == _order(index).positions(0, 16 * BATCH_SIZE).tolist()
    for epoch in range(4):
        assert sorted(seen[epoch * NUM_TRAIN : (epoch + 1) * NUM_TRAIN]) == list(range(NUM_TRAIN))


def test_a_sample_is_augmented_anew_in_each_epoch(store: Store) -> None:
    by_sample: dict[int, set[bytes]] = {}
    for batch in _batches(store, 12):
        for sample, pixels in zip(batch.samples, batch.pixels, strict=True):
            by_sample.setdefault(sample, set()).add(pixels.tobytes())
    assert all(len(seen) >= 3 for seen in by_sample.values())


def test_each_block_is_read_once_while_memory_lasts(root: Path) -> None:
    store, reads = noting_store(root)
    index = read_index(store, "train")
    order = _order(index)
    reads.clear()
    with TrainLoader(store, index, order, world=World(), transform=TRANSFORM, seed=9) as loader:
        samples = sum(len(next(loader).images) for _ in range(20))
        assert loader.metrics.samples == samples == 20 * BATCH_SIZE
        assert loader.metrics.bytes_read == int(index.length.sum())
        assert loader.metrics.wait_s > 0
    assert len(reads) == len(order.block_bounds) - 1


def _flip_byte(root: Path, index: ShardIndex, sample: int, extension: str) -> None:
    """Change a byte in the middle of a sample's member."""
    path = root / index.shard_key(sample)
    data = bytearray(path.read_bytes())
    member = data.index(f"{index.keys[sample]}.{extension}\0".encode(), int(index.offset[sample]))
    data[member + 512 + 20] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("extension", ["png", "seg.png", "json"])
def test_a_changed_byte_is_an_error_that_names_shard_and_key(tmp_path: Path, extension: str) -> None:
    write_made_up(tmp_path)
    store = LocalStore(root=tmp_path)
    index = read_index(store, "train")
    _flip_byte(tmp_path, index, 13, extension)
    expected = (
        f"{tmp_path}/train/000001.tar: sample 's0013': its bytes are not those that were indexed: "
        "restore or prepare the data again"
    )
    with (
        TrainLoader(store, index, _order(index), world=World(), transform=TRANSFORM, seed=9) as loader,
        pytest.raises(DataError) as caught,
    ):
        list(islice(loader, 4))
    assert str(caught.value) == expected
    with pytest.raises(DataError) as caught:
        list(EvalLoader(store, index, world=World()))
    assert str(caught.value) == expected


def test_a_run_that_went_wrong_on_its_way_is_read_again(root: Path) -> None:
    seen: set[str] = set()

    def spoil_first(key: str, offset: int, length: int | None, read: Callable[[], Versioned]) -> Versioned:
        found = read()
        if key in seen:
            return found
        seen.add(key)
        return found._replace(data=bytes(len(found.data)))

    whole = list(EvalLoader(LocalStore(root=root), read_index(LocalStore(root=root), "val"), world=World()))
    store = WatchedStore(root=root, watch=spoil_first)
    read = list(EvalLoader(store, read_index(store, "val"), world=World()))
    assert seen == {"dataset.json", "val/index.parquet", "val/000000.tar"}
    assert len(read) == len(whole)
    assert all(torch.equal(ours.images, theirs.images) for ours, theirs in zip(read, whole, strict=True))


def test_a_shard_cut_short_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_made_up(tmp_path)
    store = LocalStore(root=tmp_path)
    index = read_index(store, "train")
    shard = tmp_path / "train/000000.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    with (
        TrainLoader(store, index, _order(index), world=World(), transform=TRANSFORM, seed=9) as loader,
        pytest.raises(StorageError, match=r"000000\.tar: \d+ bytes asked for at offset \d+, \d+ are there"),
    ):
        list(islice(loader, 4))


def test_an_indexed_sample_that_is_no_image_is_an_error(tmp_path: Path) -> None:
    """Shards of others may hold anything: the checksum fits, the decoder does not."""
    write_made_up(tmp_path, num_train=1, num_val=1)
    store = LocalStore(root=tmp_path)
    index = read_index(store, "train")
    with tarfile.open(tmp_path / "train/000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("s0000.png", "s0000.txt"):
            (tmp_path / name).write_bytes(b"x" * 10)
            tar.add(tmp_path / name, name)
    run = (tmp_path / "train/000000.tar").read_bytes()[:2048]
    index = replace(index, length=np.array([2048]), checksum=np.array([run_checksum(run)], np.uint64))
    reader = SampleReader(store, index)
    with pytest.raises(DataError, match=r"sample 's0000': has no seg\.png, only png, txt"):
        reader.load(0)


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_evaluation_sees_each_sample_once_at_its_own_size(store: Store, world_size: int) -> None:
    index = read_index(store, "val")
    seen: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for rank in range(world_size):
        loader = EvalLoader(store, index, world=World(rank, world_size), batch_size=2)
        batches = list(loader)
        assert len(batches) == len(loader)
        ids = [sample for batch in batches for sample in batch.sample_ids.tolist()]
        assert ids == list(World(rank, world_size).share(7))
        for batch in batches:
            assert len(batch.images) <= 2
            for sample, image, label in zip(batch.sample_ids.tolist(), batch.images, batch.labels, strict=True):
                seen[sample] = (image.numpy(), label.numpy())
    assert sorted(seen) == list(range(7))
    for sample, expected in enumerate(make_samples(7, seed=1)):
        image, label = seen[sample]
        assert np.array_equal(label, expected.label)
        assert np.array_equal(image, np.array(PALETTE, np.uint8)[expected.label])


def test_neighbours_of_one_size_share_an_evaluation_batch(store: Store) -> None:
    sizes = [
        tuple(batch.labels.shape) for batch in EvalLoader(store, read_index(store, "val"), world=World(), batch_size=3)
    ]
    expected = [SIZES[number // 2 % len(SIZES)] for number in range(7)]
    assert sizes == [(3, *expected[0]), (1, *expected[3]), (2, *expected[4]), (1, *expected[6])]


def test_an_abandoned_evaluation_leaves_no_threads(store: Store) -> None:
    batches = iter(EvalLoader(store, read_index(store, "val"), world=World(), threads=3))
    next(batches)
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batch": 4}, "micro_batch: 4 does not divide the batch size 6"),
        ({"threads": 0}, "threads: 0 is out of range: give at least 1"),
        ({"start_step": -1}, "start_step: -1 is out of range: give at least 0"),
    ],
)
def test_options_out_of_range_are_named(store: Store, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _batches(store, 1, **options)
    assert str(caught.value) == message


def test_a_batch_larger_than_the_split_runs_over_epochs(tmp_path: Path) -> None:
    store = LocalStore(root=tmp_path)
    write_dataset(store, {"train": make_samples(3)}, name="x", version="1", classes=CLASSES, palette=PALETTE)
    index = read_index(store, "train")
    order = _order(index, batch_size=8)
    with TrainLoader(store, index, order, world=World(1, 2), transform=TRANSFORM, seed=0) as loader:
        batches = list(islice(loader, 3))
    expected = order.positions(0, 24).reshape(3, 8)[:, 1::2]
    assert [batch.sample_ids.tolist() for batch in batches] == expected.tolist()
