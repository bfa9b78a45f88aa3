"""Writing data sets: the same bytes however many write them, and after any interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets import context_scenes
from pipeline.datasets.layout import LazySamples
from pipeline.errors import InputError, StorageError
from pipeline.shard_runner import Runner, on_threads
from pipeline.shard_task import DoneShard, write_shard
from pipeline.shard_writer import check_samples, write_dataset
from pipeline.shards import DatasetInfo, Sample, read_dataset, read_index
from pipeline.storage import LocalStore, Store
from pipeline.verify import verify_split
from tests.unit.pipeline.made_up_data import CLASSES, PALETTE, colours, make_samples, png

SOURCE = {"from": "the test"}
SIZE = 10
KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.storage import LocalStore
from tests.unit.pipeline.test_shard_writer import write_scenes
shards = []
def done(shard):
    shards.append(shard)
    if len(shards) == 3:
        os.kill(os.getpid(), int(sys.argv[2]))
write_scenes(LocalStore(root=Path(sys.argv[1])), done=done)
"""
"""Is ended by a signal once it has finished three shards."""


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def write(root: Path, samples: list[Sample], **changes: Any) -> DatasetInfo:
    arguments: dict[str, Any] = {"source": SOURCE, "samples_per_shard": SIZE} | changes
    return write_dataset(
        LocalStore(root=root), {"train": samples}, name="x", version="1", classes=CLASSES, palette=PALETTE, **arguments
    )


def write_scenes(store: Store, runner: Runner = on_threads, **options: Any) -> DatasetInfo:
    """Twenty shards, in some seconds."""
    splits = {"train": context_scenes.samples("train", 475, seed=0), "val": context_scenes.samples("val", 25, seed=0)}
    return write_dataset(
        store,
        splits,
        name="scenes",
        version="1",
        classes=context_scenes.CLASSES,
        palette=context_scenes.PALETTE,
        source=SOURCE,
        samples_per_shard=25,
        runner=runner,
        **options,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is written in one go, on one thread."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_scenes(LocalStore(root=root), partial(on_threads, num_threads=1))
    return files(root)


@pytest.mark.parametrize("num_threads", [2, 4])
def test_any_number_of_threads_writes_the_same_bytes(
    num_threads: int, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    info = write_scenes(LocalStore(root=tmp_path), partial(on_threads, num_threads=num_threads))
    assert files(tmp_path) == undisturbed
    assert len(undisturbed) == 19 + 1 + 2 + 1
    assert not verify_split(LocalStore(root=tmp_path), info, "train").faults


def _interrupt(root: Path, number: signal.Signals) -> set[str]:
    """Start writing in a process of its own and end it in the middle; returns the shards that it had finished."""
    scratch = root.parent / f"{root.name}-tmp"
    scratch.mkdir()
    environ = {**os.environ, "TMPDIR": str(scratch)}
    command = [sys.executable, "-c", KILLED, str(root), str(int(number))]
    ended = subprocess.run(command, env=environ, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -number, ended.stderr
    if number == signal.SIGINT:
        assert list(scratch.iterdir()) == []
    return {path.name.removesuffix(".done.json") for path in root.glob("train/*.done.json")}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_was_ended_in_the_middle_is_finished_by_the_next_run(
    number: signal.Signals, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    root = tmp_path / "set"
    finished = _interrupt(root, number)
    assert 3 <= len(finished) < 19
    with pytest.raises(InputError, match=r"no dataset\.json there"):
        read_dataset(LocalStore(root=root))
    stamps = {name: (root / f"train/{name}.tar").stat().st_mtime_ns for name in finished}
    write_scenes(LocalStore(root=root))
    left_over = {name for name in files(root) if "/.partial-" in name}  # of the file that kill -9 met
    assert {name: data for name, data in files(root).items() if name not in left_over} == undisturbed
    assert {name: (root / f"train/{name}.tar").stat().st_mtime_ns for name in finished} == stamps


def _write_half(root: Path, samples: list[Sample], **changes: Any) -> None:
    """Four shards, of which the last is not finished."""
    spoiled = [*samples[:-1], replace(samples[-1], key="a.b")]
    with pytest.raises(InputError, match=r"the key 'a\.b' is empty or holds"):
        write(root, spoiled, **changes)
    assert len(list(root.glob("train/*.done.json"))) == 3


def _resume(root: Path, samples: list[Sample], **changes: Any) -> list[bool]:
    """Write, and say of each shard whether it was there; the bytes are those of an undisturbed run."""
    shards: list[DoneShard] = []
    write(root, samples, done=shards.append, runner=partial(on_threads, num_threads=1), **changes)
    whole = root.parent / f"{root.name}-whole"
    write(whole, samples, **changes)
    assert files(root) == files(whole)
    return [shard.was_there for shard in shards]


def test_finished_shards_are_kept(tmp_path: Path) -> None:
    samples = make_samples(37)
    _write_half(tmp_path / "a", samples)
    assert _resume(tmp_path / "a", samples) == [True, True, True, False]
    assert not list(tmp_path.rglob("*.done.json"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda root: (root / "train/000001.tar").write_bytes((root / "train/000001.tar").read_bytes()[:-512]),
        lambda root: (root / "train/000001.tar").write_bytes((root / "train/000000.tar").read_bytes()),
        lambda root: (root / "train/000001.tar").unlink(),
        lambda root: (root / "train/000001.done.json").unlink(),
        lambda root: (root / "train/000001.done.json").write_bytes(b"\xff{"),
    ],
    ids=["cut", "another", "missing", "no note", "no json"],
)
def test_a_shard_that_is_not_as_it_was_finished_is_written_again(spoil: Any, tmp_path: Path) -> None:
    samples = make_samples(37)
    _write_half(tmp_path / "a", samples)
    spoil(tmp_path / "a")
    assert _resume(tmp_path / "a", samples) == [True, False, True, False]


def test_a_flipped_bit_anywhere_in_a_shard_is_found(tmp_path: Path) -> None:
    samples = make_samples(37)
    for place in (0, 700, -1):
        root = tmp_path / str(place)
        _write_half(root, samples)
        data = bytearray((root / "train/000002.tar").read_bytes())
        data[place] ^= 1
        (root / "train/000002.tar").write_bytes(data)
        assert _resume(root, samples) == [True, True, False, False]


def test_shards_of_other_samples_are_written_again(tmp_path: Path) -> None:
    _write_half(tmp_path / "a", make_samples(37))
    others = make_samples(37, seed=1)
    assert _resume(tmp_path / "a", others, source={"from": "another test"}) == [False] * 4
    _write_half(tmp_path / "b", make_samples(37))
    assert _resume(tmp_path / "b", make_samples(37), samples_per_shard=15) == [False] * 3


def test_without_a_source_nothing_is_resumed_nor_noted(tmp_path: Path) -> None:
    samples = make_samples(37)
    _write_half(tmp_path / "a", samples)
    assert _resume(tmp_path / "a", samples, source=None) == [False] * 4
    notes: list[list[Path]] = []
    write(tmp_path / "b", samples, source=None, done=lambda _: notes.append(list(tmp_path.glob("b/train/*.json"))))
    assert notes == [[]] * 4


def test_one_sample_at_a_time_is_in_memory(tmp_path: Path) -> None:
    made: list[weakref.ref[Sample]] = []
    most: list[int] = []

    def make(number: int) -> Sample:
        label = np.full((200, 300), number % 4, np.uint8)
        sample = Sample(key=f"k{number}", image=png(colours(label)), extension="png", label=label, source=f"{number}")
        made.append(weakref.ref(sample))
        most.append(sum(one() is not None for one in made))
        return sample

    write(tmp_path, LazySamples(make, range(60)), samples_per_shard=60)  # type: ignore[arg-type]
    assert len(most) == 60
    assert max(most) <= 2


def test_a_key_in_two_shards_is_refused_naming_both_sources(tmp_path: Path) -> None:
    samples = make_samples(25)
    samples[23] = replace(samples[23], key="s0004")
    message = r"^images/s0023\.png: the key 's0004' is there twice in 'train', of images/s0004\.png too: rename one$"
    with pytest.raises(InputError, match=message):
        write(tmp_path, samples)
    assert not (tmp_path / "dataset.json").exists()
    with pytest.raises(InputError, match=message):
        check_samples(LocalStore(root=tmp_path), {"train": samples}, num_classes=4, samples_per_shard=SIZE)
    write_dataset(
        LocalStore(root=tmp_path), {"a": samples[:20], "b": samples[20:]},
        name="x", version="1", classes=CLASSES, palette=PALETTE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "line\nfeed"}, r"images/s0024\.png: member 'line\\nfeed\.png' has a name that is not UTF-8 text"),
        ({"image": b"BM" + bytes(60)}, r"images/s0024\.png: the image can't be read \(is neither JPEG nor PNG"),
    ],
)
def test_checking_refuses_all_that_writing_does_and_touches_nothing(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path, make_samples(12))
    before = files(tmp_path)
    samples = make_samples(25)
    samples[24] = replace(samples[24], **changes)
    with pytest.raises(InputError, match=message):
        check_samples(LocalStore(root=tmp_path), {"train": samples}, num_classes=4, samples_per_shard=SIZE)
    assert files(tmp_path) == before
    with pytest.raises(InputError, match=message):
        write(tmp_path, samples)


def test_shards_that_went_to_another_place_are_missed(tmp_path: Path) -> None:
    """As where each node of a cluster has a disk of its own."""

    def elsewhere(work: Any, items: Any, done: Any) -> Any:
        return [write_shard(replace(item, store=LocalStore(root=tmp_path / "other"))) for item in items]

    with pytest.raises(StorageError, match=r"here/train/000000\.tar: was written, but is not there: write to storage"):
        write(tmp_path / "here", make_samples(12), runner=elsewhere)
    assert not (tmp_path / "here/dataset.json").exists()


def test_no_room_for_temporary_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes nothing."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/000000.tar").symlink_to("/dev/full")

    class Full:
        def __init__(self, **_: object) -> None:
            pass

        def __enter__(self) -> str:
            return str(tmp_path / "full")

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(tempfile, "TemporaryDirectory", Full)
    with pytest.raises(StorageError, match=r"000000\.tar: can't be kept in .* \(No space left on device\): set TMPDIR"):
        write(tmp_path / "set", make_samples(3))


def test_the_index_of_a_resumed_set_is_read(tmp_path: Path) -> None:
    samples = make_samples(37)
    _write_half(tmp_path, samples)
    write(tmp_path, samples)
    assert [str(key) for key in read_index(LocalStore(root=tmp_path), "train").keys] == [one.key for one in samples]
