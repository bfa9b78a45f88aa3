"""The node cache: versions apart, within its size, shared by processes, and never able to make a sample wrong."""

from __future__ import annotations

import logging
import multiprocessing
import os
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.node_cache import NodeCache
from pipeline.sample_reader import SampleReader
from pipeline.shards import read_index
from pipeline.storage import LocalStore
from tests.unit.pipeline.made_up_data import write_made_up


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != "lock")


def test_what_was_put_is_found_by_uri_version_and_range(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "new" / "cache", 1000)
    cache.put("s3://b/train/000.tar", "v1", 5, b"12345")
    assert cache.get("s3://b/train/000.tar", "v1", 5, 5) == b"12345"
    assert NodeCache(cache.folder, 1000).get("s3://b/train/000.tar", "v1", 5, 5) == b"12345"
    for other in (
        ("s3://b/val/000.tar", "v1", 5, 5),
        ("s3://b/train/000.tar", "v2", 5, 5),
        ("s3://b/train/000.tar", "v1", 6, 5),
        ("s3://b/train/000.tar", "v1", 5, 4),
    ):
        assert cache.get(*other) is None
    cache.put("s3://b/train/000.tar", "", 5, b"12345")
    assert cache.get("s3://b/train/000.tar", "", 5, 5) is None


def test_the_least_recently_used_go(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, 100)
    for number in range(10):
        cache.put("u", "v", number, bytes(10))
        os.utime(cache._path("u", "v", number, 10), ns=(0, number))  # a file system's clock may be coarse
    assert cache.get("u", "v", 0, 10)
    cache.put("u", "v", 10, bytes(10))
    assert [number for number in range(11) if cache.get("u", "v", number, 10)] == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    cache.put("u", "v", 11, bytes(91))
    assert cache.get("u", "v", 11, 91) is None


def _fill(folder: Path, name: str) -> None:
    cache = NodeCache(folder, 5000)
    for number in range(60):
        data = bytes([number]) * 100
        cache.put(name if number % 2 else "shared", "v", number, data)
        found = cache.get(name if number % 2 else "shared", "v", number, 100)
        assert found is None or found == data
        assert _read_size(folder) <= 5100  # one more that is on its way


def _read_size(folder: Path) -> int:
    size = 0
    for path in folder.iterdir():
        try:
            size += path.stat().st_size if path.name != "lock" else 0
        except FileNotFoundError:
            continue
    return size


def test_processes_share_it_and_keep_its_size(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fill, args=(tmp_path, f"own{number}")) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert 0 < _size(tmp_path) <= 5000


def test_what_a_killed_process_left_is_counted_and_goes(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path, 100)
    (tmp_path / "tmpleft").write_bytes(bytes(95))
    os.utime(tmp_path / "tmpleft", ns=(0, 0))
    for number in range(11):
        cache.put("u", "v", number, bytes(10))
    assert not (tmp_path / "tmpleft").exists()
    assert _size(tmp_path) <= 100


def test_a_reader_with_a_cache_fetches_once_for_all_readers(tmp_path: Path) -> None:
    write_made_up(tmp_path / "data")
    store = LocalStore(root=tmp_path / "data")
    index = read_index(store, "train")
    cache = NodeCache(tmp_path / "cache", 1 << 20)
    runs = []
    for _ in range(2):
        reader = SampleReader(store, index, cache)
        runs.append([bytes(reader.read(sample, sample + 1)) for sample in range(len(index))])
    assert runs[0] == runs[1]
    # The first read of each of the three shards asks the store for the version.
    assert reader.bytes_read == sum(int(index.length[sample]) for sample in (0, 10, 20))


def test_a_damaged_file_is_read_afresh(tmp_path: Path) -> None:
    write_made_up(tmp_path / "data")
    store = LocalStore(root=tmp_path / "data")
    index = read_index(store, "train")
    reader = SampleReader(store, index, NodeCache(tmp_path / "cache", 1 << 20))
    whole = bytes(reader.read(3, 4))
    (path,) = (path for path in (tmp_path / "cache").iterdir() if path.name != "lock")
    path.write_bytes(bytes(len(whole)))
    image, _ = reader.decode(3, reader.read(3, 4))
    assert image.any()
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_used_is_the_users_error_and_a_full_disk_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^data\.cache_dir: .*/file/x: Not a directory: give a folder"):
        NodeCache(tmp_path / "file" / "x", 100)
    cache = NodeCache(tmp_path / "gone", 100)
    (tmp_path / "gone/lock").unlink()
    with caplog.at_level(logging.WARNING):
        cache.put("u", "v", 0, b"x")
    assert caplog.messages == [f"{tmp_path}/gone: nothing can be kept there: No such file or directory"]
