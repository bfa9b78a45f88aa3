"""The stored data set: WebDataset tar shards, an index of their samples, and `dataset.json`, written last.

    <root>/dataset.json            names, colours and, per split, counts and a digest
    <root>/<split>/000000.tar ...  per sample KEY.jpg or KEY.png, KEY.seg.png, KEY.json
    <root>/<split>/index.parquet   one row a sample: where its run of tar members lies, its size, its checksum

Reading them back is here; `pipeline.shard_writer` writes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError, InputError, did_you_mean, first_line
from pipeline.index_table import NUMBERS, IndexTable, KeyColumn, from_parquet, to_parquet
from pipeline.storage import ObjectNotFound, Store

DATASET_KEY = "dataset.json"
INDEX_NAME = "index.parquet"
IGNORE_INDEX = 255
_AGAIN = "prepare or index the data set again"
_HASHED_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class MemberNames:
    """Which members of a sample are its image and its label, by extension (lower case): the first that is there."""

    image: tuple[str, ...] = ("jpg", "jpeg", "png")
    label: tuple[str, ...] = ("seg.png",)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled image on its way into a shard."""

    key: str
    """Unique name within the split, without `/` and `.` (a tar member's extension begins at its first dot)."""
    image: bytes
    """The image file's own bytes."""
    extension: str
    """What the image is: "jpg" or "png"."""
    label: NDArray[np.uint8]
    """(H, W) train ids, 255 = ignore."""
    source: str
    """Where it came from: a path relative to the source folder, or the name of what was generated."""


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """What is in one split."""

    samples: int
    shards: int
    bytes: int
    """Of all shards."""
    digest: str
    """sha256 (hex) over the index: keys, places, sizes and checksums of all samples, in order."""
    class_pixels: tuple[int, ...]
    """Labelled pixels of each class."""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The contents of `dataset.json`."""

    name: str
    version: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """RGB of each class."""
    ignore_index: int = IGNORE_INDEX
    """The id that stored labels have where they say nothing; whoever reads a sample gets 255."""
    members: MemberNames = MemberNames()
    """Left out of `dataset.json` where they are the usual ones."""
    splits: Mapping[str, SplitInfo]
    source: Mapping[str, Any] = field(default_factory=dict)
    """The arguments it was prepared with; no part of the digest."""

    @property
    def digest(self) -> str:
        """sha256 (hex) of what training depends on: class names, ignore index, members and the splits' digests."""
        splits = {name: split.digest for name, split in sorted(self.splits.items())}
        identity = [list(self.classes), self.ignore_index, splits, *self._unusual_members().values()]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def to_json(self) -> bytes:
        """Stable text: the same contents give the same bytes."""
        splits = {
            name: {**vars(split), "class_pixels": list(split.class_pixels)} for name, split in self.splits.items()
        }
        contents = {**vars(self), "splits": splits, "source": dict(self.source), "digest": self.digest}
        contents = {name: value for name, value in contents.items() if name != "members"} | self._unusual_members()
        return (json.dumps(contents, indent=1, sort_keys=True) + "\n").encode()

    def _unusual_members(self) -> dict[str, Any]:
        return {} if self.members == MemberNames() else {"members": asdict(self.members)}

    @classmethod
    def from_json(cls, data: bytes, uri: str) -> DatasetInfo:
        """The inverse of `to_json`. InputError naming `uri` when the text is none of ours."""
        try:
            contents = json.loads(data)
            splits = {
                name: SplitInfo(**{**split, "class_pixels": tuple(split["class_pixels"])})
                for name, split in contents["splits"].items()
            }
            known = {entry.name for entry in fields(cls)} - {"classes", "palette", "splits", "members"}
            members = {kind: tuple(names) for kind, names in contents.get("members", {}).items()}
            digest = contents["digest"]
            info = cls(
                members=MemberNames(**members),
                classes=tuple(contents["classes"]),
                palette=tuple((int(red), int(green), int(blue)) for red, green, blue in contents["palette"]),
                splits=splits,
                **{name: contents[name] for name in sorted(known)},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{uri}: is no {DATASET_KEY} ({error!r}): {_AGAIN}") from error
        if info.digest != digest:
            raise InputError(f"{uri}: was damaged or edited, its digest is of other contents: {_AGAIN}")
        return info


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Where every sample of a split lies, in storage order; columns of length num_samples.

    Within a shard, runs neither begin nor end before the run in front of them; they may overlap in shards that others
    wrote with the members of a sample apart.
    """

    split: str
    shard_names: tuple[str, ...]
    """Relative to the split's folder; with a `/` in front, to the data set's root."""
    keys: KeyColumn
    shard: NDArray[np.int32]
    """Position in `shard_names`."""
    offset: NDArray[np.int64]
    """First byte of the sample's run of tar members in its shard."""
    length: NDArray[np.int32]
    """Bytes of that run."""
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    checksum: NDArray[np.uint64]
    """`run_checksum` of the run's bytes."""
    members: MemberNames = MemberNames()
    ignore_index: int = IGNORE_INDEX

    def __len__(self) -> int:
        return len(self.keys)

    def shard_key(self, sample: int) -> str:
        """The store's key of the shard that holds a sample."""
        return shard_key(self.split, self.shard_names[self.shard[sample]])

    def digest(self) -> str:
        """sha256 (hex) over all columns."""
        state = hashlib.sha256("\n".join([*self.shard_names, ""]).encode())
        for keys in self.keys.pieces():
            state.update("".join(f"\n{key}" for key in keys).encode())
        for column, kind in (
            (self.shard, "<i4"), (self.offset, "<i8"), (self.length, "<i8"),
            (self.width, "<i4"), (self.height, "<i4"), (self.checksum, "<u8"),
        ):  # fmt: skip
            for first in range(0, len(column), _HASHED_AT_ONCE):
                state.update(np.ascontiguousarray(column[first : first + _HASHED_AT_ONCE], kind).tobytes())
        return state.hexdigest()


def shard_key(split: str, name: str) -> str:
    """The store's key of a shard that the split's index names so."""
    return name[1:] if name.startswith("/") else f"{split}/{name}"


def run_checksum(run: bytes | memoryview) -> int:
    """The first 8 bytes, big-endian, of the sha256 of a sample's run of tar members."""
    return int.from_bytes(hashlib.sha256(run).digest()[:8], "big")


def read_dataset(store: Store) -> DatasetInfo:
    """The data set at a store's root. InputError when there is none.

    What can't be right may have been spoiled on its way: it is read once more.
    """
    try:
        data = store.read(DATASET_KEY)
    except ObjectNotFound as error:
        raise InputError(
            f"{store.uri()}: no {DATASET_KEY} there: write the data set with 'encnet data prepare', index shards "
            "that are there with 'encnet data index', or correct the URI"
        ) from error
    try:
        return DatasetInfo.from_json(data, store.uri(DATASET_KEY))
    except InputError:
        return DatasetInfo.from_json(store.read(DATASET_KEY), store.uri(DATASET_KEY))


def read_index(store: Store, split: str, info: DatasetInfo | None = None) -> ShardIndex:
    """The index of a split, checked against `dataset.json`, which is read where it is not given as `info`.

    InputError when there is no data set or no such split, or when the index is missing or of another data set.
    """
    info = info or read_dataset(store)
    if split not in info.splits:
        raise InputError(f"{store.uri()}: no split {split!r}: {did_you_mean(split, info.splits)}")
    uri = store.uri(f"{split}/{INDEX_NAME}")
    try:
        index, digest = fetch_index(store, split, info.splits[split].digest)
    except ObjectNotFound as error:
        raise InputError(f"{uri}: the index is missing: {_AGAIN}") from error
    if digest != info.splits[split].digest:
        raise InputError(f"{uri}: does not belong to {DATASET_KEY} beside it: {_AGAIN}")
    return replace(index, members=info.members, ignore_index=info.ignore_index)


def fetch_index(store: Store, split: str, digest: str) -> tuple[ShardIndex, str]:
    """The index of a split that is on storage, and its digest.

    One that is broken or not of `digest` may have been spoiled on its way: it is read once more.
    Raises ObjectNotFound, and DataError when it is broken.
    """
    key = f"{split}/{INDEX_NAME}"
    with suppress(DataError):
        index = parse_index(store.read(key), split, store.uri(key))
        if index.digest() == digest:
            return index, digest
    index = parse_index(store.read(key), split, store.uri(key))
    return index, index.digest()


def format_index(index: ShardIndex) -> bytes:
    """The bytes of `index.parquet`."""
    numbers = {name: getattr(index, name) for name in NUMBERS}
    return to_parquet(IndexTable(index.keys, index.shard_names, index.shard, numbers))


def parse_index(data: bytes, split: str, uri: str) -> ShardIndex:
    """The inverse of `format_index`. DataError naming `uri` when the file is broken."""
    try:
        table = from_parquet(data)
    except ValueError as error:
        raise DataError(f"{uri}: is no index of shards ({first_line(error)}): {_AGAIN}") from error
    return ShardIndex(split=split, shard_names=table.shard_names, shard=table.shard, keys=table.keys, **table.numbers)
