"""How evaluation reads: each sample once, in blocks, side by side, ahead of need, and no further."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.eval_loader import EvalLoader
from pipeline.shards import read_index
from pipeline.storage import Versioned
from pipeline.world import World
from tests.unit.pipeline.made_up_data import WatchedStore, noting_store, write_made_up

BESIDE = 4
TIMEOUT_S = 10.0


def meeting_store(root: Path) -> WatchedStore:
    """Its reads of shards come in groups of BESIDE, or not at all."""
    meeting = threading.Barrier(BESIDE)

    def watch(key: str, offset: int, length: int | None, read: Callable[[], Versioned]) -> Versioned:
        if key.endswith(".tar"):
            meeting.wait(TIMEOUT_S)
        return read()

    return WatchedStore(root=root, watch=watch)


def test_samples_are_read_side_by_side_whatever_decodes_them(tmp_path: Path) -> None:
    write_made_up(tmp_path, num_val=2 * BESIDE)
    store = meeting_store(tmp_path)
    batches = list(
        EvalLoader(store, read_index(store, "val"), world=World(), threads=1, lookahead=BESIDE, block_bytes=1)
    )
    assert sum(len(batch.images) for batch in batches) == 2 * BESIDE


def test_no_more_is_read_than_the_batches_ahead(tmp_path: Path) -> None:
    write_made_up(tmp_path, num_val=12)
    store, reads = noting_store(tmp_path)
    index = read_index(store, "val")
    reads.clear()
    batches = iter(EvalLoader(store, index, world=World(), lookahead=2, block_bytes=1))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert 1 <= len(reads) <= 3


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 1 << 14), st.integers(1, 6))
def test_each_sample_once_and_read_once_for_any_number_of_ranks(
    root: Path, world_size: int, batch_size: int, block_bytes: int, lookahead: int
) -> None:
    store, reads = noting_store(root)
    index = read_index(store, "train")
    reads.clear()
    ids: list[int] = []
    for rank in range(world_size):
        loader = EvalLoader(
            store,
            index,
            world=World(rank, world_size),
            batch_size=batch_size,
            lookahead=lookahead,
            block_bytes=block_bytes,
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        ids += [sample for batch in batches for sample in batch.sample_ids.tolist()]
    assert ids == list(range(len(index)))
    runs = {(index.shard_key(one), int(index.offset[one])): int(index.length[one]) for one in range(len(index))}
    assert sum(length or 0 for _, _, length in reads) == sum(runs.values())
    for key, offset, length in reads:
        assert length is not None
        assert length <= block_bytes or runs[key, offset] == length


def test_a_share_is_read_in_blocks(root: Path) -> None:
    store, reads = noting_store(root)
    index = read_index(store, "train")
    reads.clear()
    assert sum(len(batch.images) for batch in EvalLoader(store, index, world=World(1, 2))) == 11
    assert [(key, offset) for key, offset, _ in sorted(reads)] == [
        ("train/000001.tar", index.offset[12]),
        ("train/000002.tar", 0),
    ]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 samples in three shards."""
    folder = tmp_path_factory.mktemp("made-up")
    write_made_up(folder)
    return folder
