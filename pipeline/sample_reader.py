"""A sample's run of tar members -> image and label: checked against the index, read again once, decoded."""

from __future__ import annotations

import io
import tarfile
import threading

from pipeline.errors import DataError
from pipeline.shards import ShardIndex, run_checksum
from pipeline.storage import Store
from pipeline.transforms import Image, Label, decode_image, decode_label

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png")
LABEL_EXTENSION = "seg.png"


def split_members(run: bytes | memoryview) -> dict[str, bytes]:
    """A run of tar members -> {extension: contents}; an extension begins at its name's first dot.

    Raises ValueError when the bytes are no tar members.
    """
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(run), mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    members[member.name.rpartition("/")[2].partition(".")[2]] = file.read()
    except tarfile.TarError as error:
        raise ValueError(f"its bytes are no tar members: {error}") from error
    return members


class SampleReader:
    """Reads the samples of a split; safe to use from many threads, and counts the bytes read."""

    def __init__(self, store: Store, index: ShardIndex) -> None:
        self.store = store
        self.index = index
        self.bytes_read = 0
        self._lock = threading.Lock()

    def read(self, first: int, stop: int) -> memoryview:
        """The bytes of samples first .. stop-1, which lie side by side in one shard, in one ranged read."""
        index = self.index
        begin = int(index.offset[first])
        length = int(index.offset[stop - 1] + index.length[stop - 1]) - begin
        data = self.store.read(index.shard_key(first), begin, length)
        with self._lock:
            self.bytes_read += length
        return memoryview(data)

    def decode(self, sample: int, run: memoryview) -> tuple[Image, Label]:
        """A sample's run -> (H, W, 3) RGB and (H, W) ids; a run that is not what the index says is read once more.

        Raises DataError naming the shard and the key.
        """
        expected = int(self.index.checksum[sample])
        if run_checksum(run) != expected:
            run = self.read(sample, sample + 1)
            if run_checksum(run) != expected:
                raise self._error(
                    sample, "its bytes are not those that were indexed: restore or prepare the data again"
                )
        try:
            members = split_members(run)
            extension = next((name for name in IMAGE_EXTENSIONS if name in members), None)
            if extension is None or LABEL_EXTENSION not in members:
                raise ValueError(f"has no image or no {LABEL_EXTENSION}, only {', '.join(sorted(members))}")
            image, label = decode_image(members[extension], extension), decode_label(members[LABEL_EXTENSION])
        except ValueError as error:
            raise self._error(sample, str(error)) from error
        if image.shape[:2] != label.shape:
            raise self._error(sample, f"image of shape {image.shape}, label of shape {label.shape}")
        return image, label

    def _error(self, sample: int, what: str) -> DataError:
        shard = self.store.uri(self.index.shard_key(sample))
        return DataError(f"{shard}: sample {str(self.index.keys[sample])!r}: {what}")
