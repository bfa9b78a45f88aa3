"""Shards on storage: their bytes, their index, and what is refused."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError, InputError
from pipeline.sample_reader import SampleReader
from pipeline.shard_writer import write_dataset
from pipeline.shards import DatasetInfo, Sample, read_dataset, read_index, run_checksum
from pipeline.storage import LocalStore
from pipeline.transforms import decode_label
from tests.unit.pipeline.made_up_data import CLASSES, PALETTE, make_samples, read_with_webdataset, write_made_up


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _write(store: LocalStore, samples: Sequence[Sample]) -> DatasetInfo:
    return write_dataset(store, {"train": samples}, name="x", version="1", classes=CLASSES, palette=PALETTE)


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    write_made_up(tmp_path / "a")
    write_made_up(tmp_path / "b")
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert sorted(_files(tmp_path / "a")) == [
        "dataset.json",
        "train/000000.tar",
        "train/000001.tar",
        "train/000002.tar",
        "train/index.parquet",
        "val/000000.tar",
        "val/index.parquet",
    ]


def test_a_stock_reader_reads_them(tmp_path: Path) -> None:
    write_made_up(tmp_path)
    read = read_with_webdataset(sorted((tmp_path / "train").glob("*.tar")))
    expected = list(make_samples(23))
    assert [sample["__key__"] for sample in read] == [sample.key for sample in expected]
    for ours, sample in zip(expected, read, strict=True):
        assert sample["png"] == ours.image
        assert np.array_equal(decode_label(sample["seg.png"]), ours.label)
        assert json.loads(sample["json"]) == {
            "width": ours.label.shape[1],
            "height": ours.label.shape[0],
            "classes": np.unique(ours.label).tolist(),
            "source": ours.source,
        }


def test_labels_are_written_without_row_filters(tmp_path: Path) -> None:
    write_made_up(tmp_path)
    samples = read_with_webdataset([tmp_path / "val/000000.tar"])
    assert len(samples) == 7
    for sample in samples:
        data, at, packed = sample["seg.png"], 8, b""
        while at < len(data):
            (length,) = struct.unpack(">I", data[at : at + 4])
            if data[at + 4 : at + 8] == b"IDAT":
                packed += data[at + 8 : at + 8 + length]
            at += 12 + length
        height, width = decode_label(data).shape
        rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, width + 1)
        assert not rows[:, 0].any()


def test_the_index_says_where_each_sample_lies(tmp_path: Path) -> None:
    import pyarrow.parquet

    info = write_made_up(tmp_path)
    store = LocalStore(root=tmp_path)
    index = read_index(store, "train")
    assert len(index) == info.splits["train"].samples == 23
    assert index.shard_names == ("000000.tar", "000001.tar", "000002.tar")
    for sample, expected in enumerate(make_samples(23)):
        assert index.keys[sample] == expected.key
        assert (index.height[sample], index.width[sample]) == expected.label.shape
        run = store.read(index.shard_key(sample), int(index.offset[sample]), int(index.length[sample]))
        assert run_checksum(run) == index.checksum[sample]
        assert run.startswith(f"{expected.key}.json\0".encode())
    table = pyarrow.parquet.read_table(tmp_path / "train/index.parquet")
    columns = ["key", "shard", "offset", "length", "width", "height", "checksum"]
    assert table.column_names == columns
    assert table["shard"].to_pylist()[9:11] == ["000000.tar", "000001.tar"]


def test_dataset_json_says_what_is_there(tmp_path: Path) -> None:
    info = write_made_up(tmp_path)
    assert read_dataset(LocalStore(root=tmp_path)) == info
    train = info.splits["train"]
    assert train.shards == 3
    assert train.bytes == sum(path.stat().st_size for path in (tmp_path / "train").glob("*.tar"))
    labels = np.concatenate([sample.label.ravel() for sample in make_samples(23)])
    assert train.class_pixels == tuple(np.bincount(labels, minlength=len(CLASSES)))
    assert json.loads((tmp_path / "dataset.json").read_text())["digest"] == info.digest


def test_the_digest_tells_contents_apart(tmp_path: Path) -> None:
    one = _write(LocalStore(root=tmp_path / "a"), make_samples(5))
    same = _write(LocalStore(root=tmp_path / "b"), make_samples(5))
    other = _write(LocalStore(root=tmp_path / "c"), make_samples(5, seed=1))
    assert one.digest == same.digest
    assert one.digest != other.digest
    assert one.digest != replace(one, classes=("black", "green", "red", "blue")).digest
    assert one.digest == replace(one, source={"from": "elsewhere"}).digest


def test_a_smaller_data_set_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    write_made_up(tmp_path, num_train=23)
    (tmp_path / "notes.txt").write_text("not ours")
    _write(LocalStore(root=tmp_path), make_samples(3))
    assert sorted(_files(tmp_path)) == ["dataset.json", "notes.txt", "train/000000.tar", "train/index.parquet"]


def test_half_a_data_set_is_none(tmp_path: Path) -> None:
    write_made_up(tmp_path)

    with pytest.raises(InputError, match="the annotation holds the id 4"):
        _write(LocalStore(root=tmp_path), _bad(label=np.full((40, 56), 4, np.uint8)))
    with pytest.raises(InputError, match=r"no dataset\.json there: write the data set with 'encnet data prepare'"):
        read_index(LocalStore(root=tmp_path), "train")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    store = LocalStore(root=tmp_path)
    with pytest.raises(InputError) as caught:
        read_dataset(store)
    assert str(caught.value) == (
        f"{tmp_path}: no dataset.json there: write the data set with 'encnet data prepare', index shards that are "
        "there with 'encnet data index', or correct the URI"
    )
    write_made_up(tmp_path)
    with pytest.raises(InputError, match=r"no split 'trian': did you mean 'train'\?"):
        read_index(store, "trian")
    index = (tmp_path / "train/index.parquet").read_bytes()
    (tmp_path / "train/index.parquet").write_bytes((tmp_path / "val/index.parquet").read_bytes())
    with pytest.raises(InputError, match=r"index\.parquet: does not belong to dataset\.json beside it"):
        read_index(store, "train")
    (tmp_path / "train/index.parquet").write_bytes(index[:-20])
    with pytest.raises(DataError, match=r"index\.parquet: is no index of shards"):
        read_index(store, "train")
    (tmp_path / "train/index.parquet").unlink()
    with pytest.raises(InputError, match=r"index\.parquet: the index is missing: prepare or index the data set"):
        read_index(store, "train")
    (tmp_path / "dataset.json").write_text((tmp_path / "dataset.json").read_text().replace('"red"', '"pink"'))
    with pytest.raises(InputError, match=r"dataset\.json: was damaged or edited, its digest is of other contents: pre"):
        read_dataset(store)
    (tmp_path / "dataset.json").write_text('{"name": "x"}')
    with pytest.raises(InputError, match=r"dataset\.json: is no dataset\.json \(KeyError\('splits'\)\)"):
        read_dataset(store)


class SpoilingStore(LocalStore):
    """Changes one bit of an object the first time it is read."""

    spoiled: ClassVar[str]
    place: ClassVar[int]
    reads: ClassVar[int]

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        data = bytearray(super().read(key, offset, length))
        if key == self.spoiled:
            type(self).reads += 1
            data[self.place % len(data)] ^= 4 if self.reads == 1 else 0
        return bytes(data)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["dataset.json", "train/index.parquet"]), st.integers(0, 1 << 20))
def test_what_is_spoiled_on_its_way_is_read_again(sound: Path, key: str, place: int) -> None:
    SpoilingStore.spoiled, SpoilingStore.place, SpoilingStore.reads = key, place, 0
    index = read_index(SpoilingStore(root=sound), "train")
    assert index.digest() == read_index(LocalStore(root=sound), "train").digest()
    assert 1 <= SpoilingStore.reads <= 2


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    write_made_up(root)
    return root


def _bad(**changes: object) -> list[Sample]:
    good, last = make_samples(2)
    return [good, replace(last, **changes)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (_bad(key="a/b"), "images/s0001.png: the key 'a/b' is empty or holds '/' or '.': rename the file"),
        (_bad(key="a.b"), "images/s0001.png: the key 'a.b' is empty or holds '/' or '.': rename the file"),
        (
            _bad(key="s0000"),
            "images/s0001.png: the key 's0000' is there twice in 'train', of images/s0000.png too: rename one",
        ),
        (
            _bad(image=b"broken"),
            "images/s0001.png: the image can't be read (is neither JPEG nor PNG (it begins with b'broken')): "
            "replace or remove it",
        ),
        (
            _bad(label=np.zeros((40, 50), np.uint8)),
            "images/s0001.png: the image is 56x40, its annotation 50x40: they must be of one size",
        ),
        (
            _bad(label=np.full((40, 56), 4, np.uint8)),
            "images/s0001.png: the annotation holds the id 4: give train ids 0 to 3, or 255 for what is ignored",
        ),
        ([], "split 'train': holds no samples: give it some, or leave it out"),
    ],
    ids=["slash", "dot", "duplicate", "undecodable", "size", "id", "empty"],
)  # fmt: skip
def test_samples_no_reader_could_use_are_refused(tmp_path: Path, samples: list[Sample], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _write(LocalStore(root=tmp_path), samples)
    assert str(caught.value) == message
    assert not (tmp_path / "dataset.json").exists()


@pytest.mark.parametrize("key", ["x" * 150, "Straße_01 (copy)"], ids=["long", "not ASCII"])
def test_unusual_keys_are_kept(tmp_path: Path, key: str) -> None:
    _write(LocalStore(root=tmp_path), [replace(sample, key=key) for sample in make_samples(1)])
    (sample,) = read_with_webdataset([tmp_path / "train/000000.tar"])
    assert sample["__key__"] == key
    store = LocalStore(root=tmp_path)
    index = read_index(store, "train")
    reader = SampleReader(store, index)
    _, label = reader.decode(0, reader.read(0, 1))
    assert index.keys[0] == key
    assert np.array_equal(label, make_samples(1)[0].label)
