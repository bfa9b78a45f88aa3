"""How evaluation reads: side by side, ahead of need, and no further."""

from __future__ import annotations

import threading
from pathlib import Path

from pipeline.eval_loader import EvalLoader
from pipeline.shards import read_index
from pipeline.storage import LocalStore, Versioned
from pipeline.world import World
from tests.unit.pipeline.made_up_data import write_made_up

BESIDE = 4
TIMEOUT_S = 10.0


class MeetingStore(LocalStore):
    """Reads of shards come in groups of BESIDE, or not at all."""

    meeting = threading.Barrier(BESIDE)

    def read_versioned(self, key: str, offset: int = 0, length: int | None = None, version: str = "") -> Versioned:
        if key.endswith(".tar"):
            self.meeting.wait(TIMEOUT_S)
        return super().read_versioned(key, offset, length, version)


class CountingStore(LocalStore):
    """Counts the reads of shards."""

    read_offsets: set[int] = set()  # noqa: RUF012

    def read_versioned(self, key: str, offset: int = 0, length: int | None = None, version: str = "") -> Versioned:
        if key.endswith(".tar"):
            self.read_offsets.add(offset)
        return super().read_versioned(key, offset, length, version)


def test_samples_are_read_side_by_side_whatever_decodes_them(tmp_path: Path) -> None:
    write_made_up(tmp_path, num_val=2 * BESIDE)
    store = MeetingStore(root=tmp_path)
    batches = list(EvalLoader(store, read_index(store, "val"), world=World(), threads=1, lookahead=BESIDE))
    assert sum(len(batch.images) for batch in batches) == 2 * BESIDE


def test_no_more_is_read_than_the_batches_ahead(tmp_path: Path) -> None:
    write_made_up(tmp_path, num_val=12)
    store = CountingStore(root=tmp_path)
    batches = iter(EvalLoader(store, read_index(store, "val"), world=World(), lookahead=2))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(store.read_offsets) <= 3
