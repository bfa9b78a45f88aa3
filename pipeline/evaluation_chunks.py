"""The finished chunks of an evaluation on storage, so that one that was killed goes on: <storage>/evaluations/KEY/."""

from __future__ import annotations

import os

from pipeline.evaluation_tally import Tally, from_npz, to_npz
from pipeline.storage import open_store

FOLDER = "evaluations"


class KeptChunks:
    """The chunks of the evaluation `key`, cut into `num_chunks`; where there is no `storage`, none are kept.

    Raises StorageError and InputError where the storage fails.
    """

    def __init__(self, key: str, num_chunks: int, storage: str | None = None) -> None:
        storage = os.environ.get("ENCNET_STORAGE", "") if storage is None else storage
        self._store = open_store(f"{storage.rstrip('/')}/{FOLDER}/{key}") if storage else None
        self._num_chunks = num_chunks

    def read(self) -> dict[int, Tally]:
        """Those that are there; one that is damaged is deleted."""
        found: dict[int, Tally] = {}
        if self._store is None:
            return found
        there = set(self._store.list())
        for chunk in range(self._num_chunks):
            if (name := self._name(chunk)) not in there:
                continue
            try:
                found[chunk] = from_npz(self._store.read(name))
            except ValueError:
                self._store.delete(name)
        return found

    def keep(self, chunk: int, tally: Tally) -> None:
        """Store a chunk, whole."""
        if self._store is not None:
            self._store.write(self._name(chunk), to_npz(tally))

    def forget(self) -> None:
        """Delete all."""
        if self._store is not None:
            for name in self._store.list():
                self._store.delete(name)

    def _name(self, chunk: int) -> str:
        return f"{chunk:06d}-of-{self._num_chunks:06d}.npz"
