"""One shard: its samples checked, written to a temporary file, indexed from there and uploaded whole.

A finished shard has a note beside it until the data set is whole. Found again, the shard is read back, and left as it
is when it is what the note says.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from pipeline.errors import InputError, StorageError
from pipeline.image_header import read_header
from pipeline.shard_index import ShardContents, index_shard, reading, spooled
from pipeline.shard_plan import ShardTask
from pipeline.shard_runner import stop_if_asked
from pipeline.shards import IGNORE_INDEX, MemberNames, Sample
from pipeline.storage import ObjectNotFound
from pipeline.tar_members import ReadAt, sample_name
from pipeline.transforms import decode_image

_CHUNK_BYTES = 1 << 20
_LABEL_PNG = [
    cv2.IMWRITE_PNG_COMPRESSION, 6,
    # Row filters gain nothing on flat ids and make decoding three times slower.
    cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE,
]  # fmt: skip


class DoneShard(NamedTuple):
    """A shard that was written, checked or found."""

    split: str
    contents: ShardContents
    was_there: bool
    """It had been finished by a run before this one."""


class _Spooled(NamedTuple):
    """A shard in a temporary file."""

    path: Path
    contents: ShardContents
    sha256: str


def write_shard(task: ShardTask) -> DoneShard:
    """Write a shard and a note that it is finished, unless it is there.

    Raises InputError naming the source of a sample that can't be stored: a key with `/` or `.` or seen before, an
    image that can't be decoded, a label of another size than its image or with ids out of range.
    """
    found = _find_finished(task)
    if found is not None:
        return DoneShard(task.split, found, True)
    with _made(task) as shard:
        task.store.upload(task.key, shard.path)
    if task.identity:
        task.store.write(task.note_key, _note(task, shard.sha256))
    return DoneShard(task.split, shard.contents, False)


def check_shard(task: ShardTask) -> DoneShard:
    """Make a shard and throw it away. Raises as `write_shard`, and touches nothing on storage."""
    with _made(task) as shard:
        return DoneShard(task.split, shard.contents, False)


def _find_finished(task: ShardTask) -> ShardContents | None:
    """What is in the shard, when a note says that it is finished and the shard is what the note says."""
    if not task.identity:
        return None
    try:
        note = task.store.read(task.note_key)
        if task.identity.encode() not in note:
            return None
        with spooled(task.store, task.key) as (read, size):
            if _note(task, _sha256(read, size)) != note:
                return None
            return index_shard(read, size, MemberNames(), task.num_classes)
    except ObjectNotFound:
        return None


def _note(task: ShardTask, sha256: str) -> bytes:
    return json.dumps({"identity": task.identity, "shard": task.name, "sha256": sha256}).encode()


def _sha256(read: ReadAt, size: int) -> str:
    state = hashlib.sha256()
    for offset in range(0, size, _CHUNK_BYTES):
        state.update(read(offset, min(_CHUNK_BYTES, size - offset)))
    return state.hexdigest()


@contextmanager
def _made(task: ShardTask) -> Iterator[_Spooled]:
    """The shard in a temporary file, known to be readable: it is indexed as those of others are."""
    with tempfile.TemporaryDirectory(prefix="encnet-shard-") as folder:
        path = Path(folder, task.name)
        try:
            _write_tar(task, path)
        except OSError as error:
            raise StorageError(
                f"{task.store.uri(task.key)}: can't be kept in {tempfile.gettempdir()} ({error.strerror}): "
                "set TMPDIR to a folder with more room"
            ) from error
        with path.open("rb") as file:
            read, size = reading(file), path.stat().st_size
            try:
                contents = index_shard(read, size, MemberNames(), task.num_classes)
            except ValueError as error:
                raise InputError(f"split {task.split!r}: {error}") from error
            sha256 = _sha256(read, size)
        yield _Spooled(path, contents, sha256)


def _write_tar(task: ShardTask, path: Path) -> None:
    """One sample in memory at a time."""
    import webdataset

    sources: dict[str, str] = {}
    # mtime, owner and mode are fixed so that the same samples give the same bytes.
    fixed = {"user": "encnet", "group": "encnet", "mode": 0o444, "mtime": 0}
    with path.open("wb") as file, webdataset.TarWriter(file, **fixed) as tar:
        for sample in task.samples:
            stop_if_asked()
            classes = _check(sample, task.num_classes)
            if sample.key in sources:
                raise twice(task.split, sample.key, sources[sample.key], sample.source)
            sources[sample.key] = sample.source
            tar.write(_members(sample, classes))


def _members(sample: Sample, classes: list[int]) -> dict[str, Any]:
    height, width = sample.label.shape
    about = {
        "width": width,
        "height": height,
        "classes": classes,
        "source": sample.source,
    }
    label = cv2.imencode(".png", sample.label, _LABEL_PNG)[1].tobytes()
    described = json.dumps(about, sort_keys=True).encode()
    return {"__key__": sample.key, sample.extension: sample.image, "seg.png": label, "json": described}


def twice(split: str, key: str, first: str, second: str) -> InputError:
    """Two samples of a split, from the sources `first` and `second`, have one key."""
    return InputError(f"{second}: the key {key!r} is there twice in {split!r}, of {first} too: rename one")


def _check(sample: Sample, num_classes: int) -> list[int]:
    """The classes in a sample's label. Raises InputError, naming its source, for one that no reader could use."""
    if not sample.key or "/" in sample.key or "." in sample.key:
        raise InputError(f"{sample.source}: the key {sample.key!r} is empty or holds '/' or '.': rename the file")
    try:
        sample_name(f"{sample.key}.{sample.extension}")
    except ValueError as error:
        raise InputError(f"{sample.source}: {error}") from error
    try:
        # By what it is, not by its name, as it will be read.
        image = decode_image(sample.image, read_header(sample.image).kind)
    except ValueError as error:
        raise InputError(f"{sample.source}: the image can't be read ({error}): replace or remove it") from error
    if image.shape[:2] != sample.label.shape:
        raise InputError(
            f"{sample.source}: the image is {image.shape[1]}x{image.shape[0]}, its annotation "
            f"{'x'.join(str(size) for size in sample.label.shape[::-1])}: they must be of one size"
        )
    ids: list[int] = np.flatnonzero(np.bincount(sample.label.ravel())[:IGNORE_INDEX]).tolist()
    if ids and ids[-1] >= num_classes:
        raise InputError(
            f"{sample.source}: the annotation holds the id {ids[-1]}: "
            f"give train ids 0 to {num_classes - 1}, or {IGNORE_INDEX} for what is ignored"
        )
    return ids
