"""A data set on storage, read whole and checked against its index: every fault found, not only the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.sample_reader import decode_pair, split_members
from pipeline.shard_index import count_classes, plan_runs, spooled
from pipeline.shard_runner import Runner, on_threads
from pipeline.shards import (
    DATASET_KEY,
    IGNORE_INDEX,
    INDEX_NAME,
    DatasetInfo,
    ShardIndex,
    SplitInfo,
    fetch_index,
    run_checksum,
    shard_key,
)
from pipeline.storage import ObjectNotFound, Store
from pipeline.tar_members import ReadAt, walk_members


class Fault(NamedTuple):
    """Something that is not as the index or `dataset.json` says."""

    place: str
    """The URI of the shard or file."""
    key: str
    """The sample's; empty where it is not one sample's fault."""
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {f'sample {self.key!r}: ' if self.key else ''}{self.what}"


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What reading a split found."""

    samples: int
    """That were read and are what the index says."""
    bytes: int
    faults: tuple[Fault, ...]


@dataclass
class _Shard:
    """What was found in one shard."""

    num_bytes: int = 0
    samples: int = 0
    class_pixels: NDArray[np.int64] | int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)
    """(key, what)"""


def verify_split(
    store: Store,
    info: DatasetInfo,
    split: str,
    progress: Callable[[], None] = lambda: None,
    *,
    runner: Runner = on_threads,
) -> SplitReport:
    """Read all of a split: its index against `dataset.json`, its shards against the index, each sample decoded.

    `progress` is called after each shard. Raises StorageError and InputError when storage fails or refuses.
    """
    place = store.uri(f"{split}/{INDEX_NAME}")
    try:
        index, digest = fetch_index(store, split, info.splits[split].digest)
    except (ObjectNotFound, DataError) as error:
        return SplitReport(samples=0, bytes=0, faults=(Fault(place, "", str(error).removeprefix(f"{place}: ")),))
    faults = [Fault(place, key, what) for key, what in _index_faults(index, digest, info.splits[split].digest)]
    places = [shard_key(split, name) for name in index.shard_names]
    by_shard = np.argsort(index.shard, kind="stable")
    bounds = np.searchsorted(index.shard[by_shard], np.arange(1, len(places)))
    samples_of = dict(zip(places, np.split(by_shard, bounds), strict=False))  # an empty index has no shards
    shards = runner(
        lambda key: _verify_shard(store, key, index, samples_of[key], info), places, lambda shard: progress()
    )
    for key, shard in zip(places, shards, strict=True):
        faults += [Fault(store.uri(key), *found) for found in shard.faults]
    samples, num_bytes = sum(shard.samples for shard in shards), sum(shard.num_bytes for shard in shards)
    if not faults:
        pixels = sum((shard.class_pixels for shard in shards), start=np.zeros(len(info.classes), np.int64))
        found = SplitInfo(
            samples=samples,
            shards=len(shards),
            bytes=num_bytes,
            digest=digest,
            class_pixels=tuple(np.asarray(pixels).tolist()),
        )
        faults += [Fault(store.uri(DATASET_KEY), "", what) for what in _count_faults(split, info.splits[split], found)]
    return SplitReport(samples=samples, bytes=num_bytes, faults=tuple(faults))


def _index_faults(index: ShardIndex, digest: str, said: str) -> Iterator[tuple[str, str]]:
    if digest != said:
        yield "", f"is of digest {digest[:12]}, {DATASET_KEY} says {said[:12]}: one of them is of other data"
    for key, count in Counter(index.keys).items():
        if count > 1:
            yield key, f"is there {count} times"
    in_order = (np.diff(index.offset) >= 0) & (np.diff(index.offset + index.length) >= 0)
    for sample in np.flatnonzero((np.diff(index.shard) == 0) & ~in_order)[:1].tolist():
        yield index.keys[sample + 1], "begins or ends before the sample in front of it"


def _count_faults(split: str, said: SplitInfo, found: SplitInfo) -> Iterator[str]:
    for name, value in vars(said).items():
        if value != getattr(found, name):
            yield f"split {split!r}: {name} is {value}, but {getattr(found, name)} on storage"


def _verify_shard(store: Store, key: str, index: ShardIndex, samples: NDArray[np.intp], info: DatasetInfo) -> _Shard:
    """Everything that is wrong with a shard."""
    found = _Shard()
    try:
        with spooled(store, key) as (read, size):
            found.num_bytes = size
            found.faults += _archive_faults(read, size, {index.keys[sample] for sample in samples.tolist()}, info)
            for sample in samples.tolist():
                name = index.keys[sample]
                try:
                    found.class_pixels = found.class_pixels + _verify_sample(read, size, index, sample, info)
                    found.samples += 1
                except ValueError as error:
                    found.faults.append((name, str(error)))
    except ObjectNotFound:
        found.faults.append(("", f"is missing, with {len(samples)} samples"))
    return found


def _archive_faults(read: ReadAt, size: int, indexed: set[str], info: DatasetInfo) -> Iterable[tuple[str, str]]:
    """What is wrong with a shard as a whole: no sound archive, or samples that the index does not know."""
    try:
        runs, _ = plan_runs(list(walk_members(read, size, whole=True)), info.members)
    except ValueError as error:
        return [("", str(error))]
    return [(run.key, "is in the shard, but not in the index") for run in runs if run.key not in indexed]


def _verify_sample(read: ReadAt, size: int, index: ShardIndex, sample: int, info: DatasetInfo) -> NDArray[np.int64]:
    """The sample's pixels of each class. Raises ValueError saying what is wrong with it."""
    offset, length = int(index.offset[sample]), int(index.length[sample])
    if not 0 <= offset < offset + length <= size:
        raise ValueError(
            f"lies at bytes {offset} to {offset + length}, the shard has {size}: it is cut short, or another"
        )
    run = read(offset, length)
    if run_checksum(run) != int(index.checksum[sample]):
        raise ValueError("its bytes are not those that were indexed (checksum)")
    image, label = decode_pair(split_members(run, index.keys[sample]), info.members, info.ignore_index)
    width, height = int(index.width[sample]), int(index.height[sample])
    if image.shape[:2] != (height, width):
        raise ValueError(f"is {image.shape[1]}x{image.shape[0]}, the index says {width}x{height}")
    return count_classes(label, len(info.classes), IGNORE_INDEX)
