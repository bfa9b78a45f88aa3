"""Shards that others wrote -> their index: any tar that stock webdataset reads, samples in one piece or scattered.

Each shard is read once, into a temporary file, so memory does not grow with it. A sample's run reaches from the first
to the last of its image and label (and members of its own beside them); what other samples' members lie within it is
passed over when it is read. So that neighbours can still be read at once, a run never ends before the one in front of
it: it is made longer where it would. A run beyond `MAX_RUN_BYTES` is refused: reading it for one sample costs too much.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError, StorageError
from pipeline.image_header import check_pair
from pipeline.index_table import NUMBERS, KeyColumn
from pipeline.sample_reader import choose_pair, decode_ids, split_members
from pipeline.shards import IGNORE_INDEX, MemberNames, ShardIndex, run_checksum, shard_key
from pipeline.storage import Store
from pipeline.tar_members import Member, ReadAt, sample_name, walk_members
from pipeline.transforms import Label

MAX_RUN_BYTES = 64 << 20
_CHUNK_BYTES = 8 << 20


class Run(NamedTuple):
    """Where a sample lies in its shard, in bytes."""

    key: str
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class ShardContents:
    """What indexing a shard found; of each sample a key and a place in each column."""

    num_bytes: int
    keys: tuple[str, ...]
    columns: Mapping[str, NDArray[Any]] = field(repr=False)
    """offset, length, width, height and checksum, as in `ShardIndex`."""
    class_pixels: NDArray[np.int64] = field(repr=False)
    """(num_classes,) labelled pixels of each class."""
    skipped: int
    """Members that are of no sample with an image or a label."""


@contextmanager
def spooled(store: Store, key: str) -> Iterator[tuple[ReadAt, int]]:
    """A shard in a temporary file: how to read from it, and its size in bytes. StorageError when it finds no room."""
    size = store.size(key)
    try:
        with tempfile.TemporaryFile(prefix="encnet-shard-") as file:
            version = ""
            for offset in range(0, size, _CHUNK_BYTES):
                chunk, version = store.read_versioned(key, offset, min(_CHUNK_BYTES, size - offset), version)
                file.write(chunk)
            file.flush()
            yield reading(file), size
    except OSError as error:
        raise StorageError(
            f"{store.uri(key)}: its {size:,} bytes can't be kept in {tempfile.gettempdir()} ({error.strerror}): "
            "set TMPDIR to a folder with more room"
        ) from error


def reading(file: BinaryIO) -> ReadAt:
    """How to read from a file by offset and length."""

    def read(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    return read


def plan_runs(members: Sequence[Member], names: MemberNames) -> tuple[list[Run], int]:
    """The samples among a shard's members, in order of their runs; and how many members are of none.

    Raises ValueError, naming the sample, for a member that is there twice, an image without label or the reverse, an
    empty image or label, and a run of more than `MAX_RUN_BYTES`.
    """
    samples: dict[str, dict[str, int]] = {}
    for place, member in enumerate(members):
        key, extension = sample_name(member.name) or (None, "")
        if key is None:
            continue
        if extension in samples.setdefault(key, {}):
            raise ValueError(f"sample {key!r} has two members {extension!r}: a key must be there once, rename one")
        samples[key][extension] = place
    wanted = {*names.image, *names.label}
    paired = {key: places for key, places in samples.items() if wanted & set(places)}
    spans = [_span(key, places, members, names) for key, places in paired.items()]
    return _in_order(spans), len(members) - sum(map(len, paired.values()))


def _span(key: str, places: dict[str, int], members: Sequence[Member], names: MemberNames) -> tuple[int, int, str]:
    """(start, stop, key) of the sample's image and label, and of its own members next to them."""
    try:
        pair = choose_pair(places, names)
    except ValueError as error:
        raise ValueError(f"sample {key!r} {error}: add it, or remove the sample's members") from error
    for extension in pair:
        if members[places[extension]].size == 0:
            raise ValueError(f"sample {key!r}: {extension}: is empty (0 bytes): replace or remove it")
    own = set(places.values())
    first, last = sorted(places[extension] for extension in pair)
    while first - 1 in own:
        first -= 1
    while last + 1 in own:
        last += 1
    return members[first].start, members[last].stop, key


def _in_order(spans: list[tuple[int, int, str]]) -> list[Run]:
    runs: list[Run] = []
    end = 0
    for start, stop, key in sorted(spans):
        end = max(end, stop)
        if end - start > MAX_RUN_BYTES:
            raise ValueError(
                f"sample {key!r} can only be read with {end - start:,} bytes, more than {MAX_RUN_BYTES:,}: it is too "
                "large, or members of samples are too far apart: write the shard again, each sample's side by side"
            )
        runs.append(Run(key, start, end - start))
    return runs


def index_shard(
    read: ReadAt, size: int, names: MemberNames, num_classes: int, ignore_index: int = IGNORE_INDEX
) -> ShardContents:
    """Index one shard: read its headers, then each sample once, by the same way that training will read it.

    Labels are decoded, images are not. Raises ValueError naming the member or sample that no reader could use.
    """
    runs, skipped = plan_runs(list(walk_members(read, size, whole=True)), names)
    pixels = np.zeros(num_classes, np.int64)
    rows = []
    for run in runs:
        data = read(run.offset, run.length)
        try:
            members = split_members(data, run.key)
            image, label = choose_pair(members, names)
            header = check_pair(members[image], image, members[label], label)
            pixels += count_classes(decode_ids(members[label]), num_classes, ignore_index)
        except ValueError as error:
            raise ValueError(f"sample {run.key!r}: {error}") from error
        rows.append((run.offset, run.length, header.width, header.height, run_checksum(data)))
    columns = {name: np.array([row[at] for row in rows], kind) for at, (name, kind) in enumerate(NUMBERS.items())}
    keys = tuple(run.key for run in runs)
    return ShardContents(num_bytes=size, keys=keys, columns=columns, class_pixels=pixels, skipped=skipped)


def count_classes(label: Label, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    """(num_classes,) pixels of each class. Raises ValueError for an id that is neither a class nor ignored."""
    counts = np.bincount(label.ravel(), minlength=256)
    wrong = [int(name) for name in np.flatnonzero(counts) if name >= num_classes and name != ignore_index]
    if wrong:
        raise ValueError(
            f"the label holds the id {', '.join(map(str, wrong[:5]))}: classes are 0 to {num_classes - 1}, "
            f"and {ignore_index} is ignored"
        )
    return np.asarray(counts[:num_classes], np.int64)


def index_stored_shard(
    store: Store, key: str, names: MemberNames, num_classes: int, ignore_index: int = IGNORE_INDEX
) -> ShardContents:
    """`index_shard` of a shard on storage. Raises DataError naming the shard for what it raises ValueError for."""
    with spooled(store, key) as (read, size):
        try:
            return index_shard(read, size, names, num_classes, ignore_index)
        except ValueError as error:
            raise DataError(f"{store.uri(key)}: {error}") from error


def join_shards(split: str, shard_names: Sequence[str], shards: Sequence[ShardContents], store: Store) -> ShardIndex:
    """The index of a split from those of its shards. Raises DataError when two of them hold the same key."""
    seen: dict[str, int] = {}
    for shard, contents in enumerate(shards):
        for key in contents.keys:
            if seen.setdefault(key, shard) != shard:
                first, second = (store.uri(shard_key(split, shard_names[place])) for place in (seen[key], shard))
                raise DataError(f"{second}: sample {key!r} is in {first} too: a key must be there once in a split")
    columns: dict[str, Any] = {name: np.concatenate([shard.columns[name] for shard in shards]) for name in NUMBERS}
    return ShardIndex(
        split=split,
        shard_names=tuple(shard_names),
        keys=KeyColumn.of(seen),
        shard=np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard.keys) for shard in shards]),
        **columns,
    )
