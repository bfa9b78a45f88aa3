"""Samples that can't be decoded: replaced, counted and named up to a limit, alike for any number of ranks."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from pipeline.bad_samples import BadSample, BadSamples, substitutes
from pipeline.errors import DataError
from pipeline.eval_loader import EvalLoader
from pipeline.loader import Batch, TrainLoader
from pipeline.order import Order, plan_blocks
from pipeline.sample_reader import SampleReader
from pipeline.shards import ShardIndex, read_index, run_checksum
from pipeline.storage import LocalStore
from pipeline.transforms import TransformConfig
from pipeline.world import World
from tests.unit.pipeline.made_up_data import write_made_up

BAD = (4, 5, 13)
BATCH_SIZE = 6
STEPS = 8  # two epochs and a bit of 23 samples


def spoil(root: Path, samples: tuple[int, ...], split: str = "train") -> ShardIndex:
    """Make the images of some samples no images, and index them so."""
    index = read_index(LocalStore(root=root), split)
    checksum = index.checksum.copy()
    for sample in samples:
        path = root / index.shard_key(sample)
        data = bytearray(path.read_bytes())
        begin = int(index.offset[sample])
        header = data.index(f"{index.keys[sample]}.png\0".encode(), begin)
        data[header + 512 : header + 528] = bytes(16)
        path.write_bytes(data)
        checksum[sample] = run_checksum(bytes(data[begin : begin + int(index.length[sample])]))
    return replace(index, checksum=checksum)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    write_made_up(root)
    return root


@pytest.fixture(scope="module")
def index(root: Path) -> ShardIndex:
    return spoil(root, BAD)


def _read(
    root: Path, index: ShardIndex, world: World, *, limit: int = len(BAD), start_step: int = 0, threads: int = 2
) -> tuple[list[Batch], list[str]]:
    """A rank's batches, and what was bad."""
    order = Order(
        plan_blocks(index.shard, index.offset, index.length, 8_000), seed=5, batch_size=BATCH_SIZE, window=4
    )  # fmt: skip
    with TrainLoader(
        LocalStore(root=root),
        index,
        order,
        world=world,
        transform=TransformConfig(crop_size=(32, 40)),
        seed=9,
        start_step=start_step,
        threads=threads,
        max_bad_samples=limit,
    ) as loader:
        return list(islice(loader, STEPS - start_step)), loader.bad_samples


def _order(index: ShardIndex) -> list[int]:
    blocks = plan_blocks(index.shard, index.offset, index.length, 8_000)
    return Order(blocks, seed=5, batch_size=BATCH_SIZE, window=4).positions(0, STEPS * BATCH_SIZE).tolist()


def _sentence(root: Path, sample: int) -> str:
    return f"{root}/train/{sample // 10:06d}.tar: sample 's{sample:04d}': "


def test_batches_stay_full_and_only_the_bad_ones_are_others(root: Path, index: ShardIndex) -> None:
    batches, bad = _read(root, index, World())
    shown = [sample for batch in batches for sample in batch.sample_ids.tolist()]
    planned = _order(index)
    assert len(shown) == len(planned)
    assert not set(BAD) & set(shown)
    assert [was for was, now in zip(planned, shown, strict=True) if was != now] == [s for s in planned if s in BAD]
    assert sorted(line.split(": ")[1] for line in bad) == ["sample 's0004'", "sample 's0005'", "sample 's0013'"]
    assert all(line.startswith(f"{root}/train/00000") for line in bad)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_any_number_of_ranks_replaces_alike(root: Path, index: ShardIndex, world_size: int) -> None:
    alone, bad = _read(root, index, World(), threads=1)
    ranks = [_read(root, index, World(rank, world_size)) for rank in range(world_size)]
    for step, expected in enumerate(alone):
        lanes = torch.cat([batches[step].positions for batches, _ in ranks]).argsort()
        for name in ("sample_ids", "images", "labels"):
            together = torch.cat([getattr(batches[step], name) for batches, _ in ranks])[lanes]
            assert torch.equal(together, getattr(expected, name))
    assert {line for _, found in ranks for line in found} == set(bad)


def test_a_resumed_loader_replaces_alike(root: Path, index: ShardIndex) -> None:
    whole, _ = _read(root, index, World())
    rest, _ = _read(root, index, World(), start_step=3)
    assert all(torch.equal(ours.images, theirs.images) for ours, theirs in zip(rest, whole[3:], strict=True))


def test_none_are_allowed_by_default(root: Path, index: ShardIndex) -> None:
    with pytest.raises(DataError) as caught:
        _read(root, index, World(), limit=0)
    first = next(sample for sample in _order(index) if sample in BAD)
    assert str(caught.value).startswith(_sentence(root, first))
    assert "data.max_bad_samples" not in str(caught.value)


def test_one_more_than_allowed_is_an_error_that_names_it(root: Path, index: ShardIndex) -> None:
    with pytest.raises(DataError) as caught:
        _read(root, index, World(), limit=2)
    last = [sample for sample in dict.fromkeys(_order(index)) if sample in BAD][2]
    assert str(caught.value).startswith(_sentence(root, last))
    assert str(caught.value).endswith("; with it 3 samples are bad, and data.max_bad_samples allows 2")


def test_evaluation_allows_none(root: Path, tmp_path: Path) -> None:
    write_made_up(tmp_path)
    index = spoil(tmp_path, (3,), "val")
    with pytest.raises(BadSample, match=r"val/000000\.tar: sample 's0003': "):
        list(EvalLoader(LocalStore(root=tmp_path), index, world=World()))


def test_bytes_other_than_those_indexed_are_never_let_pass(tmp_path: Path) -> None:
    """They might be right for the next who reads them, and so the batch not the same for all."""
    write_made_up(tmp_path)
    index = read_index(LocalStore(root=tmp_path), "train")
    spoil(tmp_path, (4,))
    with pytest.raises(DataError, match=r"sample 's0004': its bytes are not those that were indexed") as caught:
        _read(tmp_path, index, World(), limit=20)
    assert not isinstance(caught.value, BadSample)


def test_a_split_of_bad_samples_alone_is_an_error(tmp_path: Path) -> None:
    write_made_up(tmp_path, num_train=2)
    with pytest.raises(DataError, match=r"with it 2 samples are bad, and data\.max_bad_samples allows 9"):
        _read(tmp_path, spoil(tmp_path, (0, 1)), World(), limit=9)


@pytest.mark.parametrize("num_samples", [1, 2, 3, 50])
def test_substitutes_are_all_others_in_an_order_of_their_own(num_samples: int) -> None:
    for sample in range(num_samples):
        found = list(substitutes(1, 2, sample, num_samples))
        assert sorted(found) == [other for other in range(num_samples) if other != sample]
        assert found == list(substitutes(1, 2, sample, num_samples))
    if num_samples == 50:
        firsts = {next(substitutes(1, epoch, 7, num_samples)) for epoch in range(30)}
        assert len(firsts) > 15


def test_each_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bad = BadSamples(limit=2)
    with caplog.at_level(logging.WARNING):
        bad.add(["a", "b"])
        bad.add(["a"])
    assert bad.found == ["a", "b"]
    assert caplog.messages == [
        "a: another sample takes its place (1 of at most 2)",
        "b: another sample takes its place (2 of at most 2)",
    ]
    with pytest.raises(DataError, match=r"^c; with it 3 samples are bad, and data\.max_bad_samples allows 2$"):
        bad.add(["b", "c"])


def test_a_bad_sample_survives_pickling(root: Path, index: ShardIndex) -> None:
    reader = SampleReader(LocalStore(root=root), index)
    with pytest.raises(BadSample) as caught:
        reader.load(4)
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (type(copy), str(copy)) == (BadSample, str(caught.value))
