"""Checkpoints on their way: committed once they are stored, pruned, let go with a warning, and when that ends a run."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest

from pipeline.checkpoint import WEIGHTS
from pipeline.checkpoint_store import CheckpointStore
from pipeline.checkpoint_upload import MAX_LOST_IN_A_ROW, Uploads
from pipeline.config import CheckpointConfig
from pipeline.errors import StorageError
from pipeline.local_store import LocalStore
from tests.unit.pipeline.small_training import BEGUN, tiny_snapshot


class _Failing(LocalStore):
    """Full, while `full` is set; uploads wait for `gate`."""

    full = threading.Event()
    gate = threading.Event()

    def upload(self, key: str, path: Path) -> None:
        self.gate.wait(10)
        if self.full.is_set():
            raise StorageError(f"{self.uri(key)}: No space left on device")
        super().upload(key, path)


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    monkeypatch.setattr(_Failing, "full", threading.Event())
    monkeypatch.setattr(_Failing, "gate", threading.Event())
    _Failing.gate.set()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return CheckpointStore(store=_Failing(root=tmp_path / "checkpoints"))


class _Watched:
    """Uploads, and what they told."""

    def __init__(self, checkpoints: CheckpointStore, keep_last: int = 2, keep_best: int = 1) -> None:
        self.committed: list[int] = []
        self.lost: list[tuple[int, str]] = []
        self.uploads = Uploads(
            checkpoints,
            CheckpointConfig(keep_last=keep_last, keep_best=keep_best),
            BEGUN,
            committed=self.committed.append,
            lost=lambda step, fault: self.lost.append((step, fault)),
        )

    def upload(self, step: int, miou: float | None = None) -> None:
        self.uploads.begin()
        self.uploads.upload(tiny_snapshot(step, miou))


def test_what_is_stored_is_committed_and_the_rest_deleted(checkpoints: CheckpointStore) -> None:
    watched = _Watched(checkpoints)
    for step, miou in ((1, 0.5), (2, None), (3, 0.2), (4, None), (5, None)):
        watched.upload(step, miou)
    assert watched.committed == [1, 2, 3, 4, 5]
    assert checkpoints.names() == ["step_0000001", "step_0000004", "step_0000005"]
    assert checkpoints.delete_partial() == []
    watched.uploads.finish()
    again = _Watched(checkpoints)
    again.upload(6, 0.6)
    assert checkpoints.names() == ["step_0000005", "step_0000006"], "an attempt prunes what those before it left"


def test_a_score_that_comes_later_changes_the_state_only(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    watched = _Watched(checkpoints)
    watched.upload(1)
    weights = Path(checkpoints.uri("step_0000001")) / WEIGHTS
    written_at = weights.stat().st_mtime_ns
    watched.upload(1, 0.5)
    assert weights.stat().st_mtime_ns == written_at
    assert checkpoints.fetch("step_0000001", tmp_path).miou == 0.5
    assert watched.committed == [1, 1]
    watched.upload(2)
    assert checkpoints.fetch("step_0000002", tmp_path).miou is None


def test_a_lost_checkpoint_ends_nothing(checkpoints: CheckpointStore) -> None:
    watched = _Watched(checkpoints)
    watched.upload(1)
    _Failing.full.set()
    watched.upload(2)
    assert watched.uploads.lost_one()
    fault = f"{checkpoints.uri()}/step_0000002/weights.safetensors: No space left on device"
    assert watched.lost == [(2, fault)]
    assert checkpoints.names() == ["step_0000001"]
    _Failing.full.clear()
    watched.upload(3)
    assert not watched.uploads.lost_one()
    watched.uploads.finish()
    assert watched.committed == [1, 3]


def test_the_last_one_and_too_many_in_a_row_must_not_be_lost(checkpoints: CheckpointStore) -> None:
    watched = _Watched(checkpoints)
    _Failing.full.set()
    watched.upload(1)
    with pytest.raises(StorageError, match="No space left on device"):
        watched.uploads.finish()
    for step in range(2, MAX_LOST_IN_A_ROW):
        watched.upload(step)
        assert watched.uploads.lost_one()
    watched.upload(MAX_LOST_IN_A_ROW)
    with pytest.raises(StorageError, match=f"step_000000{MAX_LOST_IN_A_ROW}/weights.safetensors: No space left"):
        watched.uploads.lost_one()


def test_the_loop_waits_with_a_third(checkpoints: CheckpointStore) -> None:
    watched = _Watched(checkpoints)
    assert watched.uploads.is_idle
    _Failing.gate.clear()
    watched.uploads.begin()
    watched.uploads.begin()
    assert not watched.uploads.is_idle
    third = threading.Thread(target=watched.uploads.begin)
    third.start()
    third.join(0.2)
    assert third.is_alive()
    _Failing.gate.set()
    watched.uploads.upload(tiny_snapshot(1))
    third.join(10)
    assert not third.is_alive()
    watched.uploads.upload(tiny_snapshot(2))
    watched.uploads.upload(tiny_snapshot(3))
    watched.uploads.finish()
    assert watched.committed == [1, 2, 3]
    assert watched.uploads.is_idle


def test_a_full_temporary_folder_loses_a_checkpoint_too(
    checkpoints: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = _Watched(checkpoints)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    watched.upload(1)
    assert [step for step, _ in watched.lost] == [1]
    assert "gone" in watched.lost[0][1]
