"""Checkpoints on storage: whole or not there, verified when read, pruned by plan."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.checkpoint import EMA, OPTIMIZER, STATE, WEIGHTS, write_snapshot
from pipeline.checkpoint_store import CheckpointStore, Saved, best, open_checkpoints, plan_prune
from pipeline.errors import StorageError
from pipeline.local_store import LocalStore
from pipeline.resumed_read import PassingFault
from tests.unit.pipeline.made_up_data import noting_store
from tests.unit.pipeline.small_training import tiny_snapshot

SAVED = st.lists(
    st.tuples(st.integers(1, 50), st.none() | st.sampled_from([0.0, 0.1, 0.25, 0.5]), st.booleans()),
    unique_by=lambda one: one[0],
).map(lambda rows: [Saved(f"step_{step:07d}", step, miou, miou is None and later) for step, miou, later in rows])


@given(SAVED, st.integers(0, 4), st.integers(0, 4))
def test_the_newest_and_the_best_are_kept_and_nothing_else(saved: list[Saved], last: int, num_best: int) -> None:
    deleted = set(plan_prune(saved, last, num_best))
    kept = [one for one in saved if one.name not in deleted]
    for one in saved:
        newer = [other for other in saved if other.step > one.step]
        better = [
            other
            for other in saved
            if one.miou is None or (other.miou is not None and (other.miou, other.step) > (one.miou, one.step))
        ]
        is_kept = len(newer) < max(last, 1) or (one.miou is not None and len(better) < num_best)
        is_kept = is_kept or one.is_scored_later
        assert (one in kept) == is_kept
    if num_best:
        assert best(kept) == best(saved)
    assert not plan_prune(kept, last, num_best)


def test_the_best_is_the_newer_of_equals() -> None:
    assert best([]) is None
    assert best([Saved("a", 1, None)]) is None
    assert best([Saved("a", 1, 0.5), Saved("b", 2, 0.5), Saved("c", 3, 0.4), Saved("d", 4, None)]) == Saved("b", 2, 0.5)


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointStore:
    return open_checkpoints(str(tmp_path / "storage"), "mine")


def _save(checkpoints: CheckpointStore, folder: Path, *steps: int) -> None:
    for step in steps:
        local = folder / f"local_{step}"
        local.mkdir()
        snapshot = tiny_snapshot(step, miou=step / 100)
        write_snapshot(local, snapshot)
        checkpoints.save(local, snapshot.state.name)


def test_what_was_saved_is_fetched(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    assert checkpoints.uri("step_0000004") == str(tmp_path / "storage/runs/mine/checkpoints/step_0000004")
    assert checkpoints.fetch_newest(tmp_path) is None
    _save(checkpoints, tmp_path, 2, 10)
    assert checkpoints.names() == ["step_0000002", "step_0000010"]
    assert checkpoints.saved() == [Saved("step_0000002", 2, 0.02), Saved("step_0000010", 10, 0.1)]
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    found = checkpoints.fetch_newest(fetched)
    assert found is not None
    assert (found.name, found.state.step, found.skipped) == ("step_0000010", 10, {})
    for path in (tmp_path / "local_10").iterdir():
        assert (fetched / path.name).read_bytes() == path.read_bytes()
    only = tmp_path / "only"
    only.mkdir()
    checkpoints.fetch("step_0000002", only, [WEIGHTS])
    assert sorted(path.name for path in only.iterdir()) == [STATE, WEIGHTS]


def test_the_weights_that_the_score_is_of_are_fetched_alone(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    snapshot = tiny_snapshot(3, miou=0.25)
    for name, average in (("plain", None), ("averaged", {"a": snapshot.weights["a"] + 1})):
        local, fetched = tmp_path / name, tmp_path / f"{name}-fetched"
        local.mkdir()
        fetched.mkdir()
        write_snapshot(local, replace(snapshot, ema=average))
        checkpoints.save(local, name)
        store, reads = noting_store(tmp_path / "storage/runs/mine/checkpoints")
        state = CheckpointStore(store=store).fetch_scored(name, fetched)
        assert state.scored_weights == (EMA if average else WEIGHTS)
        assert (fetched / state.scored_weights).read_bytes() == (local / state.scored_weights).read_bytes()
        assert sorted(path.name for path in fetched.iterdir()) == sorted([STATE, state.scored_weights])
        assert [key for key, _, _ in reads] == [f"{name}/{STATE}", f"{name}/{state.scored_weights}"]


def test_a_score_may_come_later(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    snapshot = tiny_snapshot(3)
    write_snapshot(tmp_path, replace(snapshot, state=replace(snapshot.state, is_scored_later=True)))
    checkpoints.save(tmp_path, "step_0000003")
    assert checkpoints.saved() == [Saved("step_0000003", 3, None, True)]
    checkpoints.write_scores("step_0000003", 0.25, [0.5, 0.0, nan])
    assert checkpoints.saved() == [Saved("step_0000003", 3, 0.25, False)]
    fetched = checkpoints.fetch("step_0000003", tmp_path)
    assert (fetched.miou, fetched.iou, fetched.is_scored_later) == (0.25, [0.5, 0.0, None], False)
    checkpoints.delete("step_0000003")
    assert checkpoints.store.list() == []


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        (WEIGHTS, _flip, "weights.safetensors: its digest is wrong"),
        (OPTIMIZER, _flip, "optimizer.pt: its digest is wrong"),
        (STATE, _flip, "state.json: "),
        (STATE, lambda path: path.write_bytes(path.read_bytes()[:-9]), "state.json: "),
        (WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:-1]), r"weights.safetensors: \d+ of \d+ bytes"),
        (OPTIMIZER, Path.unlink, "optimizer.pt: missing"),
    ],
    ids=["flipped weights", "flipped optimizer", "flipped state", "short state", "short weights", "no optimizer"],
)
def test_the_one_before_takes_the_place_of_a_broken_one(
    checkpoints: CheckpointStore,
    tmp_path: Path,
    file: str,
    damage: Callable[[Path], object],
    reason: str,
) -> None:
    _save(checkpoints, tmp_path, 2, 4)
    damage(Path(checkpoints.uri("step_0000004")) / file)
    found = checkpoints.fetch_newest(tmp_path)
    assert found is not None
    assert (found.name, found.state.step, list(found.skipped)) == ("step_0000002", 2, ["step_0000004"])
    assert re.match(reason, found.skipped["step_0000004"])
    assert (tmp_path / file).read_bytes() == (tmp_path / "local_2" / file).read_bytes()


def test_a_half_checkpoint_is_none(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    _save(checkpoints, tmp_path, 2, 4)
    (Path(checkpoints.uri("step_0000004")) / STATE).unlink()
    assert checkpoints.names() == ["step_0000002"]
    found = checkpoints.fetch_newest(tmp_path)
    assert found is not None
    assert (found.name, found.skipped) == ("step_0000002", {})
    assert checkpoints.delete_partial() == ["step_0000004"]
    assert checkpoints.store.list("step_0000004/") == []
    assert checkpoints.names() == ["step_0000002"]
    assert checkpoints.delete_partial() == []


def test_a_run_whose_checkpoints_are_all_broken_does_not_begin_anew(
    checkpoints: CheckpointStore, tmp_path: Path
) -> None:
    _save(checkpoints, tmp_path, 2, 4)
    for name in checkpoints.names():
        _flip(Path(checkpoints.uri(name)) / WEIGHTS)
    with pytest.raises(StorageError) as caught:
        checkpoints.fetch_newest(tmp_path)
    fault = "weights.safetensors: its digest is wrong"
    assert str(caught.value) == (
        f"{checkpoints.uri()}: no checkpoint is whole: step_0000004: {fault}; step_0000002: {fault}: "
        "start anew with another --name"
    )
    assert checkpoints.names() == ["step_0000002", "step_0000004"]


class _Recording(LocalStore):
    """Says in which order files come and go, and fails as told."""

    calls: list[str] = []  # noqa: RUF012 - a frozen dataclass's own
    faults: list[Exception | None] = []  # noqa: RUF012

    def upload(self, key: str, path: Path) -> None:
        self.calls.append(f"+{Path(key).name}")
        if self.faults and (fault := self.faults.pop()):
            raise fault
        super().upload(key, path)

    def delete(self, key: str) -> None:
        self.calls.append(f"-{Path(key).name}")
        super().delete(key)


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    monkeypatch.setattr(_Recording, "calls", [])
    monkeypatch.setattr(_Recording, "faults", [])
    return CheckpointStore(store=_Recording(root=tmp_path / "recorded"))


def test_state_comes_last_and_goes_first(recording: CheckpointStore, tmp_path: Path) -> None:
    _save(recording, tmp_path, 2)
    assert _Recording.calls[-1] == f"+{STATE}"
    assert len(_Recording.calls) == 3
    recording.delete("step_0000002")
    assert _Recording.calls[3] == f"-{STATE}"
    assert recording.store.list() == []


def test_of_what_could_not_be_stored_whole_nothing_is_left(recording: CheckpointStore, tmp_path: Path) -> None:
    _Recording.faults += [StorageError("No space left on device"), None]
    with pytest.raises(StorageError, match="No space left"):
        _save(recording, tmp_path, 2)
    assert _Recording.calls == [f"+{WEIGHTS}", f"+{OPTIMIZER}", f"-{STATE}", f"-{WEIGHTS}"]
    assert recording.store.list() == []


def test_a_fault_that_passes_is_tried_again(
    recording: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Recording.faults += [PassingFault("busy"), PassingFault("busy")]
    _save(recording, tmp_path, 2)
    assert recording.names() == ["step_0000002"]
    monkeypatch.setattr(storage, "WRITE_PATIENCE_S", 0.0)
    _Recording.faults += [PassingFault("away for long")]
    with pytest.raises(PassingFault, match="away for long"):
        _save(recording, tmp_path, 4)
    _Recording.faults += [StorageError("denied")]
    with pytest.raises(StorageError, match="denied"):
        _save(recording, tmp_path, 6)
    assert recording.names() == ["step_0000002"]
