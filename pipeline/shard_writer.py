"""Samples -> WebDataset tar shards, an index per split, and `dataset.json`: the same samples give the same bytes.

One shard at a time is spooled to a temporary file, so memory does not grow with the data set. `dataset.json` goes
first when a data set is overwritten and comes last: what is half-written is no data set to any reader.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.errors import InputError
from pipeline.shards import (
    DATASET_KEY,
    IGNORE_INDEX,
    INDEX_NAME,
    DatasetInfo,
    Sample,
    ShardIndex,
    SplitInfo,
    format_index,
    read_dataset,
    run_checksum,
)
from pipeline.storage import Store
from pipeline.transforms import decode_image

SAMPLES_PER_SHARD = 1000
MAX_SHARD_BYTES = 64 << 20
_OURS = re.compile(rf"[^/]+/(\d{{6,}}\.tar|{re.escape(INDEX_NAME)})")
_LABEL_PNG = [
    cv2.IMWRITE_PNG_COMPRESSION, 6,
    # Row filters gain nothing on flat ids and make decoding three times slower.
    cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE,
]  # fmt: skip


def write_dataset(
    store: Store,
    splits: Mapping[str, Iterable[Sample]],
    *,
    name: str,
    version: str,
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...],
    source: Mapping[str, Any] | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> DatasetInfo:
    """Write the splits below a store's root, replacing any data set there, and return what `dataset.json` says.

    A shard closes after `samples_per_shard` samples or once it holds `max_shard_bytes`. Raises InputError naming the
    source of a sample that can't be stored: a key with `/` or `.` or seen before, an image that can't be decoded, a
    label of another size than its image or with ids out of range; and for a split without samples.
    """
    store.ensure_bucket()
    replaced = _stored_splits(store) | set(splits)
    store.delete(DATASET_KEY)
    stale = {key for split in sorted(replaced) for key in store.list(f"{split}/") if _OURS.fullmatch(key)}
    infos: dict[str, SplitInfo] = {}
    for split, samples in splits.items():
        writer = _SplitWriter(store, split, len(classes), samples_per_shard, max_shard_bytes)
        infos[split] = writer.write(samples)
        stale -= writer.written
    for key in sorted(stale):
        store.delete(key)
    info = DatasetInfo(
        name=name, version=version, classes=classes, palette=palette, splits=infos, source=dict(source or {})
    )
    store.write(DATASET_KEY, info.to_json())
    return info


def _stored_splits(store: Store) -> set[str]:
    try:
        return set(read_dataset(store).splits)
    except InputError:  # none there, or one that no reader takes: there is nothing to know about it
        return set()


@dataclass
class _Rows:
    """The index's columns while they grow."""

    keys: list[str] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    width: list[int] = field(default_factory=list)
    height: list[int] = field(default_factory=list)
    checksum: list[int] = field(default_factory=list)

    def index(self, split: str, shard_names: tuple[str, ...]) -> ShardIndex:
        return ShardIndex(
            split=split,
            shard_names=shard_names,
            keys=np.array(self.keys, np.str_),
            shard=np.array(self.shard, np.int32),
            offset=np.array(self.offset, np.int64),
            length=np.array(self.length, np.int64),
            width=np.array(self.width, np.int32),
            height=np.array(self.height, np.int32),
            checksum=np.array(self.checksum, np.uint64),
        )


class _SplitWriter:
    """Writes one split's shards, one after the other, then its index."""

    def __init__(
        self, store: Store, split: str, num_classes: int, samples_per_shard: int, max_shard_bytes: int
    ) -> None:
        self.store = store
        self.split = split
        self.num_classes = num_classes
        self.samples_per_shard = samples_per_shard
        self.max_shard_bytes = max_shard_bytes
        self.rows = _Rows()
        self.shard_names: list[str] = []
        self.written: set[str] = set()
        self.num_bytes = 0
        self.class_pixels = np.zeros(num_classes, np.int64)
        self._seen: set[str] = set()

    def write(self, samples: Iterable[Sample]) -> SplitInfo:
        remaining = iter(samples)
        while (first := next(remaining, None)) is not None:
            self._write_shard(first, remaining)
        if not self.shard_names:
            raise InputError(f"split {self.split!r}: holds no samples: give it some, or leave it out")
        index = self.rows.index(self.split, tuple(self.shard_names))
        key = f"{self.split}/{INDEX_NAME}"
        self.store.write(key, format_index(index))
        self.written.add(key)
        return SplitInfo(
            samples=len(index),
            shards=len(self.shard_names),
            bytes=self.num_bytes,
            digest=index.digest(),
            class_pixels=tuple(self.class_pixels.tolist()),
        )

    def _write_shard(self, first: Sample, remaining: Iterator[Sample]) -> None:
        """Spool one shard to a file, read its samples' checksums back from there, and upload it."""
        import webdataset

        name = f"{len(self.shard_names):06d}.tar"
        num_before = len(self.rows.keys)
        with tempfile.TemporaryDirectory(prefix="encnet-shard-") as folder:
            path = Path(folder, name)
            # mtime, owner and mode are fixed so that the same samples give the same bytes.
            fixed = {"user": "encnet", "group": "encnet", "mode": 0o444, "mtime": 0}
            with path.open("wb") as file, webdataset.TarWriter(file, **fixed) as tar:
                self._add(tar, first)
                while not self._full(num_before) and (sample := next(remaining, None)) is not None:
                    self._add(tar, sample)
            with path.open("rb") as shard:
                for offset, length in zip(self.rows.offset[num_before:], self.rows.length[num_before:], strict=True):
                    shard.seek(offset)
                    self.rows.checksum.append(run_checksum(shard.read(length)))
            key = f"{self.split}/{name}"
            self.store.upload(key, path)
            self.num_bytes += path.stat().st_size
        self.shard_names.append(name)
        self.written.add(key)

    def _full(self, num_before: int) -> bool:
        end = self.rows.offset[-1] + self.rows.length[-1]
        return len(self.rows.keys) - num_before >= self.samples_per_shard or end >= self.max_shard_bytes

    def _add(self, tar: Any, sample: Sample) -> None:
        self._check(sample)
        height, width = sample.label.shape
        pixels = np.bincount(sample.label.ravel(), minlength=IGNORE_INDEX + 1)[: self.num_classes]
        about = {
            "width": width,
            "height": height,
            "classes": np.flatnonzero(pixels).tolist(),
            "source": sample.source,
        }
        encoded = cv2.imencode(".png", sample.label, _LABEL_PNG)[1].tobytes()
        offset = tar.tarstream.offset
        described = json.dumps(about, sort_keys=True).encode()
        tar.write({"__key__": sample.key, sample.extension: sample.image, "seg.png": encoded, "json": described})
        self.class_pixels += pixels
        self.rows.keys.append(sample.key)
        self.rows.shard.append(len(self.shard_names))
        self.rows.offset.append(offset)
        self.rows.length.append(tar.tarstream.offset - offset)
        self.rows.width.append(width)
        self.rows.height.append(height)

    def _check(self, sample: Sample) -> None:
        """Raise InputError, naming the sample's source, for one that no reader could use."""
        if not sample.key or "/" in sample.key or "." in sample.key:
            raise InputError(f"{sample.source}: the key {sample.key!r} is empty or holds '/' or '.': rename the file")
        if sample.key in self._seen:
            raise InputError(f"{sample.source}: the key {sample.key!r} is there twice in {self.split!r}: rename one")
        self._seen.add(sample.key)
        try:
            image = decode_image(sample.image, sample.extension)
        except ValueError as error:
            raise InputError(f"{sample.source}: the image can't be read ({error}): replace or remove it") from error
        if image.shape[:2] != sample.label.shape:
            raise InputError(
                f"{sample.source}: the image is {image.shape[1]}x{image.shape[0]}, its annotation "
                f"{'x'.join(str(size) for size in sample.label.shape[::-1])}: they must be of one size"
            )
        ids = sample.label[(sample.label >= self.num_classes) & (sample.label != IGNORE_INDEX)]
        if ids.size:
            raise InputError(
                f"{sample.source}: the annotation holds the id {ids.max()}: "
                f"give train ids 0 to {self.num_classes - 1}, or {IGNORE_INDEX} for what is ignored"
            )
