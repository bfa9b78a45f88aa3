"""Parts of shards kept on the node's disk, for all its processes and the runs after this one, within a size."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InputError

_LOG = logging.getLogger(__name__)
_LOCK = "lock"
_KEPT_SHARE = 0.9
"""How much is kept when there is no more room: less would waste, more would look through the folder too often."""


class NodeCache:
    """Byte ranges of objects, each a file of `folder`; the least recently used go when `max_bytes` is reached.

    Safe among processes and threads: a file appears whole, and may go at any time. What is stored belongs to one
    version of an object, so a new version finds nothing. Raises InputError when the folder can't be used.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _LOCK).touch()
        except OSError as error:
            raise InputError(
                f"data.cache_dir: {folder}: {error.strerror}: give a folder that can be written"
            ) from error

    def get(self, uri: str, version: str, offset: int, length: int) -> bytes | None:
        """Bytes [offset, offset + length) of a version of an object; None when they are not here, or can't be read."""
        path = self._path(uri, version, offset, length)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:  # the store has it all the same
            return None
        return data if len(data) == length else None

    def put(self, uri: str, version: str, offset: int, data: bytes) -> None:
        """Keep a range; an object without a version can't be kept. A full disk is logged, and no error."""
        if not version or len(data) > _KEPT_SHARE * self.max_bytes:
            return
        try:
            with self._locked() as lock:
                held = int.from_bytes(os.pread(lock, 8, 0), "big") + len(data)
                if held > self.max_bytes:
                    held = self._make_room(len(data)) + len(data)
                # Told before it is so: a process killed in between leaves a count too high, which the next look mends.
                os.pwrite(lock, held.to_bytes(8, "big"), 0)
                self._write(self._path(uri, version, offset, len(data)), data)
        except OSError as error:
            _LOG.warning("%s: nothing can be kept there: %s", self.folder, error.strerror)

    def _path(self, uri: str, version: str, offset: int, length: int) -> Path:
        name = hashlib.sha256(f"{uri}\n{version}".encode()).hexdigest()[:32]
        return self.folder / f"{name}-{offset}-{length}"

    @contextmanager
    def _locked(self) -> Iterator[int]:
        lock = os.open(self.folder / _LOCK, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    def _make_room(self, num_bytes: int) -> int:
        """Remove what was used longest ago, and return how many bytes are left."""
        entries = [(entry, entry.stat()) for entry in os.scandir(self.folder) if entry.name != _LOCK]
        held = sum(status.st_size for _, status in entries)
        for entry, status in sorted(entries, key=lambda each: each[1].st_mtime_ns):
            if held + num_bytes <= _KEPT_SHARE * self.max_bytes:
                break
            Path(entry.path).unlink()
            held -= status.st_size
        return held

    def _write(self, path: Path, data: bytes) -> None:
        file, name = tempfile.mkstemp(dir=self.folder)
        try:
            with os.fdopen(file, "wb") as stream:
                stream.write(data)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
