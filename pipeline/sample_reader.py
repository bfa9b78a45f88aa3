"""A sample's run of tar members -> image and label: checked against the index, read again once, decoded."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping

import numpy as np

from pipeline.bad_samples import BadSample
from pipeline.errors import DataError, StorageError
from pipeline.image_header import PALETTE, check_ids, check_pair, read_header
from pipeline.node_cache import NodeCache
from pipeline.resumed_read import changed
from pipeline.shards import IGNORE_INDEX, MemberNames, ShardIndex, run_checksum
from pipeline.storage import Store
from pipeline.tar_members import sample_name, walk_members
from pipeline.transforms import Image, Label, decode_image, decode_label


def split_members(run: bytes | memoryview, key: str) -> dict[str, bytes]:
    """A run of tar members -> {extension: contents} of those that are of the sample `key`.

    Raises ValueError when the bytes are no tar members, or a member is there twice.
    """
    view = memoryview(run)
    members: dict[str, bytes] = {}
    for member in walk_members(lambda at, length: bytes(view[at : at + length]), len(view), whole=False):
        named = sample_name(member.name)
        if named and named[0] == key:
            if named[1] in members:
                raise ValueError(f"has two members {named[1]!r}")
            members[named[1]] = bytes(view[member.data : member.data + member.size])
    return members


def choose_pair(extensions: Mapping[str, object], names: MemberNames) -> tuple[str, str]:
    """The extensions of a sample's image and label among those it has. Raises ValueError when either is missing."""
    image = next((name for name in names.image if name in extensions), None)
    label = next((name for name in names.label if name in extensions), None)
    if image is None or label is None:
        missing = " or ".join((() if image else names.image) + (() if label else names.label))
        raise ValueError(f"has no {missing}, only {', '.join(sorted(extensions)) or 'members of other samples'}")
    return image, label


def decode_pair(
    members: Mapping[str, bytes], names: MemberNames, ignore_index: int = IGNORE_INDEX
) -> tuple[Image, Label]:
    """A sample's members -> (H, W, 3) RGB and (H, W) ids, 255 where the label has `ignore_index`.

    Sizes are checked before any pixel is decoded. Raises ValueError saying which member can't be read, and why.
    """
    image_name, label_name = choose_pair(members, names)
    header = check_pair(members[image_name], image_name, members[label_name], label_name)
    # By what it is, not by its name: data sets are full of JPEGs called .png.
    image = decode_image(members[image_name], header.kind)
    label = decode_ids(members[label_name])
    if ignore_index != IGNORE_INDEX:
        label = np.where(label == ignore_index, np.uint8(IGNORE_INDEX), label)
    return image, label


def decode_ids(label: bytes) -> Label:
    """A label PNG -> (H, W) ids: grey levels, or positions in its palette.

    Raises ValueError when it is damaged, or can't hold ids.
    """
    header = read_header(label)
    check_ids(header)
    if header.colour_type != PALETTE:
        ids = decode_label(label)
        # Grey of fewer bits is spread over 0 to 255 in decoding.
        return ids if header.bit_depth == 8 else ids // np.uint8(255 // ((1 << header.bit_depth) - 1))
    from PIL import Image as Pillow

    try:
        # OpenCV would give the palette's colours.
        with Pillow.open(io.BytesIO(label)) as png:
            return np.array(png, np.uint8)
    except (OSError, SyntaxError) as error:  # what Pillow raises for damaged files
        raise ValueError(f"can't be decoded as an image ({error})") from error


NUM_READERS = 8
"""Threads of a loader that wait for storage."""


class SampleReader:
    """Reads the samples of a split; safe to use from many threads, and counts the bytes read.

    A shard's version is that of its first read, which tells it at no cost: all later reads want the same. What was
    replaced before that read shows in the checksums. With a `cache`, later reads look there first.
    Once `cancelled` is set, its reads end with ReadCancelled.
    """

    def __init__(
        self,
        store: Store,
        index: ShardIndex,
        cache: NodeCache | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.store = store
        self.index = index
        self._cache = cache
        self._cancelled = cancelled
        self.bytes_read = 0
        self._versions: dict[str, str] = {}
        self._lock = threading.Lock()

    def read(self, first: int, stop: int, *, afresh: bool = False) -> memoryview:
        """The bytes of samples first .. stop-1, which lie side by side in one shard, in one ranged read.

        `afresh` leaves the cache out. Counts what comes from the store.
        Raises StorageError naming shard, bytes and keys; ObjectChanged when the shard is no longer the same.
        """
        index = self.index
        shard = index.shard_key(first)
        begin = int(index.offset[first])
        length = int(index.offset[stop - 1] + index.length[stop - 1]) - begin
        version, uri = self._versions.get(shard, ""), self.store.uri(shard)
        if self._cache and version and not afresh and (kept := self._cache.get(uri, version, begin, length)):
            return memoryview(kept)
        try:
            read = self.store.read_versioned(shard, begin, length, version, self._cancelled)
            with self._lock:
                self.bytes_read += length
                version = self._versions.setdefault(shard, read.version)
            if read.version != version:
                raise changed(uri, version, read.version)
        except StorageError as error:
            keys = " to ".join(dict.fromkeys(repr(index.keys[sample]) for sample in (first, stop - 1)))
            raise type(error)(f"{error}; it was read for {keys}") from error
        if self._cache:
            self._cache.put(uri, version, begin, read.data)
        return memoryview(read.data)

    def load(self, sample: int) -> tuple[Image, Label]:
        """One sample by itself, read and decoded. Raises as `read` and `decode` do."""
        return self.decode(sample, self.read(sample, sample + 1))

    def decode(self, sample: int, run: memoryview) -> tuple[Image, Label]:
        """A sample's run -> (H, W, 3) RGB and (H, W) ids; a run that is not what the index says is read once more.

        Raises DataError naming the shard and the key, BadSample when the bytes are those that were indexed.
        """
        expected = int(self.index.checksum[sample])
        if run_checksum(run) != expected:
            run = self.read(sample, sample + 1, afresh=True)
            if run_checksum(run) != expected:
                wrong = "its bytes are not those that were indexed: restore or prepare the data again"
                raise DataError(self._name(sample, wrong))
        try:
            members = split_members(run, self.index.keys[sample])
            return decode_pair(members, self.index.members, self.index.ignore_index)
        except ValueError as error:
            raise BadSample(self._name(sample, str(error))) from error

    def _name(self, sample: int, what: str) -> str:
        shard = self.store.uri(self.index.shard_key(sample))
        return f"{shard}: sample {self.index.keys[sample]!r}: {what}"
