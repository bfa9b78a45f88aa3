"""Every fault of a stored data set is found and named, and a sound one has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.index_table import KeyColumn
from pipeline.shards import DatasetInfo, ShardIndex, format_index, read_dataset, read_index, run_checksum
from pipeline.storage import LocalStore
from pipeline.verify import SplitReport, verify_split
from tests.unit.pipeline.made_up_data import write_made_up
from tests.unit.pipeline.test_tar_members import make_tar

SHARD = "train/000001.tar"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """23 samples in three shards."""
    write_made_up(tmp_path)
    return LocalStore(root=tmp_path)


def verify(store: LocalStore, split: str = "train") -> SplitReport:
    return verify_split(store, read_dataset(store), split)


def faults(store: LocalStore) -> list[str]:
    return [str(fault).removeprefix(f"{store.root}/") for fault in verify(store).faults]


def change_info(store: LocalStore, change: Callable[[DatasetInfo], DatasetInfo]) -> None:
    """Put another dataset.json there, whose digest is that of its contents."""
    store.write("dataset.json", change(read_dataset(store)).to_json())


def change_split(store: LocalStore, **changes: Any) -> None:
    """Say something else of the split train."""
    change_info(
        store,
        lambda info: replace(info, splits={**info.splits, "train": replace(info.splits["train"], **changes)}),
    )


def change_index(store: LocalStore, change: Callable[[ShardIndex], ShardIndex]) -> None:
    """Put another index there, with the digest in dataset.json that goes with it."""
    index = change(read_index(store, "train"))
    store.write("train/index.parquet", format_index(index))
    change_split(store, digest=index.digest())


def test_a_sound_data_set_has_no_faults(store: LocalStore) -> None:
    told: list[int] = []
    report = verify_split(store, read_dataset(store), "train", lambda: told.append(1))
    sizes = sum(path.stat().st_size for path in (store.root / "train").glob("*.tar"))
    assert report == SplitReport(samples=23, bytes=sizes, faults=())
    assert len(told) == 3
    assert verify(store, "val").samples == 7


def test_a_flipped_bit_is_named_by_shard_and_key(store: LocalStore) -> None:
    index = read_index(store, "train")
    data = bytearray(store.read(SHARD))
    data[int(index.offset[13]) + 700] ^= 1
    store.write(SHARD, bytes(data))
    assert faults(store) == [f"{SHARD}: sample 's0013': its bytes are not those that were indexed (checksum)"]
    assert verify(store).samples == 22


def test_a_truncated_shard_is_named_with_each_sample_that_is_lost(store: LocalStore) -> None:
    index = read_index(store, "train")
    stop = int(index.offset[18]) + 100
    store.write(SHARD, store.read(SHARD)[:stop])
    found = faults(store)
    assert found[0] == f"{SHARD}: cut off at byte {stop}, within a header: write it again"
    assert found[1:] == [
        f"{SHARD}: sample 's{sample:04}': lies at bytes {index.offset[sample]} to "
        f"{index.offset[sample] + index.length[sample]}, the shard has {stop}: it is cut short, or another"
        for sample in (18, 19)
    ]
    assert verify(store).samples == 21


def test_a_missing_shard_is_named(store: LocalStore) -> None:
    store.delete(SHARD)
    assert faults(store) == [f"{SHARD}: is missing, with 10 samples"]


def test_samples_that_the_index_does_not_know_are_named(store: LocalStore) -> None:
    def change(index: ShardIndex) -> ShardIndex:
        names = ("shard", "offset", "length", "width", "height", "checksum")
        columns: dict[str, Any] = {name: np.delete(getattr(index, name), 4) for name in names}
        return replace(index, keys=KeyColumn.of(key for key in index.keys if key != "s0004"), **columns)

    change_index(store, change)
    assert faults(store) == ["train/000000.tar: sample 's0004': is in the shard, but not in the index"]


def test_a_wrong_size_and_a_key_that_is_twice_are_named(store: LocalStore) -> None:
    def change(index: ShardIndex) -> ShardIndex:
        width, keys = index.width.copy(), list(index.keys)
        width[2], keys[7] = 99, "s0006"
        return replace(index, width=width, keys=KeyColumn.of(keys))

    change_index(store, change)
    assert faults(store) == [
        "train/index.parquet: sample 's0006': is there 2 times",
        "train/000000.tar: sample 's0007': is in the shard, but not in the index",
        "train/000000.tar: sample 's0002': is 56x40, the index says 99x40",
        "train/000000.tar: sample 's0006': has no jpg or jpeg or png or seg.png, only members of other samples",
    ]


def test_an_index_of_other_data_is_named(store: LocalStore) -> None:
    said = read_dataset(store).splits["train"].digest
    change_split(store, digest="0" * 64)
    assert faults(store) == [
        f"train/index.parquet: is of digest {said[:12]}, dataset.json says 000000000000: one of them is of other data"
    ]
    store.write("train/index.parquet", b"no parquet")
    (fault,) = faults(store)
    assert fault.startswith("train/index.parquet: is no index of shards (")
    store.delete("train/index.parquet")
    assert faults(store) == ["train/index.parquet: there is no such file"]


@pytest.mark.parametrize(
    ("field", "value"), [("samples", 24), ("shards", 2), ("bytes", 5), ("class_pixels", (1, 2, 3, 4))]
)
def test_wrong_counts_are_named(store: LocalStore, field: str, value: object) -> None:
    right = getattr(read_dataset(store).splits["train"], field)
    change_split(store, **{field: value})
    assert faults(store) == [f"dataset.json: split 'train': {field} is {value}, but {right} on storage"]


def test_labels_out_of_range_are_named(store: LocalStore) -> None:
    change_info(store, lambda info: replace(info, classes=info.classes[:3], palette=info.palette[:3]))
    found = faults(store)
    assert len(found) > 10
    assert found[0].endswith("the label holds the id 3: classes are 0 to 2, and 255 is ignored")


@pytest.mark.parametrize(("offset", "length"), [(-512, 512), (0, -1), (1 << 60, 512), (0, (1 << 31) - 1), (3, 700)])
def test_a_hostile_index_is_a_fault_and_no_crash(store: LocalStore, offset: int, length: int) -> None:
    def change(index: ShardIndex) -> ShardIndex:
        offsets, lengths, checksums = index.offset.copy(), index.length.copy(), index.checksum.copy()
        offsets[0], lengths[0] = offset, length
        checksums[0] = run_checksum(store.read("train/000000.tar", 3, 700))
        return replace(index, offset=offsets, length=lengths, checksum=checksums)

    change_index(store, change)
    found = [fault for fault in faults(store) if "begins or ends before" not in fault]
    assert [fault.partition("': ")[0] for fault in found] == ["train/000000.tar: sample 's0000"]


def test_what_was_made_from_a_run_with_two_of_a_member_is_a_fault(store: LocalStore) -> None:
    index = read_index(store, "train")
    twice = make_tar([("s0000.png", b"a"), ("s0000.png", b"b")])
    store.write("train/000000.tar", twice + store.read("train/000000.tar")[len(twice) :])
    change_index(
        store,
        lambda index: replace(
            index,
            length=np.concatenate([np.array([2048], np.int32), index.length[1:]]),
            checksum=np.concatenate([np.array([run_checksum(twice[:2048])], np.uint64), index.checksum[1:]]),
        ),
    )
    assert f"train/000000.tar: sample '{index.keys[0]}': has two members 'png'" in faults(store)
