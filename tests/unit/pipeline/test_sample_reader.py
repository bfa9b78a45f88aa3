"""Reading samples from shards that are missing, cut short or replaced while they are in use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StorageError
from pipeline.sample_reader import SampleReader
from pipeline.shards import read_index
from pipeline.storage import LocalStore, ObjectChanged, ObjectNotFound
from tests.unit.pipeline.made_up_data import colours, make_samples, write_made_up


@pytest.fixture
def reader(tmp_path: Path) -> SampleReader:
    write_made_up(tmp_path)
    store = LocalStore(root=tmp_path)
    return SampleReader(store, read_index(store, "train"))


def test_neighbours_come_in_one_read(reader: SampleReader, tmp_path: Path) -> None:
    begin, end = int(reader.index.offset[3]), int(reader.index.offset[6])
    assert bytes(reader.read(3, 6)) == (tmp_path / "train/000000.tar").read_bytes()[begin:end]
    assert reader.bytes_read == end - begin


def test_a_sample_is_loaded_by_itself(reader: SampleReader) -> None:
    image, label = reader.load(13)
    expected = make_samples(14)[13].label
    assert np.array_equal(label, expected)
    assert np.array_equal(image, colours(expected))
    assert reader.bytes_read == reader.index.length[13]


def test_a_shard_replaced_while_in_use_is_an_error_that_says_so(reader: SampleReader, tmp_path: Path) -> None:
    shard = tmp_path / "train/000000.tar"
    reader.read(0, 2)
    data, status = shard.read_bytes(), shard.stat()
    (tmp_path / "new").write_bytes(data)
    os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    (tmp_path / "new").replace(shard)
    size, time = status.st_size, status.st_mtime_ns
    with pytest.raises(ObjectChanged) as caught:
        reader.read(4, 6)
    assert str(caught.value) == (
        f"{shard}: was replaced while in use (its version was {size}-{time} and is {size}-{time + 1} now): "
        "leave a data set alone while it is read, and start again; it was read for 's0004' to 's0005'"
    )
    reader.read(10, 12)  # of another shard


def test_a_shard_that_is_gone_is_named_with_the_samples(reader: SampleReader, tmp_path: Path) -> None:
    (tmp_path / "train/000000.tar").unlink()
    with pytest.raises(ObjectNotFound, match=r"000000\.tar: there is no such file; it was read for 's0004'$"):
        reader.read(4, 5)


def test_a_shard_cut_short_is_named_with_the_samples(reader: SampleReader, tmp_path: Path) -> None:
    shard = tmp_path / "train/000000.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    with pytest.raises(
        StorageError, match=r"bytes asked for at offset \d+, 0 are there: it is cut short; it was read for 's0004'$"
    ):
        reader.read(4, 5)
