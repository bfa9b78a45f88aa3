"""The checkpoints of a run on storage: each whole or not there, verified when it is read, pruned by plan.

<storage>/runs/NAME/checkpoints/step_0000120/weights.safetensors ...    state.json is written last, and deleted first:
                                                                        a folder without one is no checkpoint
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import NamedTuple

from pipeline.checkpoint import SCORES, STATE, BrokenCheckpoint, RunState
from pipeline.errors import InputError, StorageError, first_line
from pipeline.resume import runs_uri
from pipeline.storage import ObjectNotFound, Store, open_store, write_patiently

_logger = logging.getLogger(__name__)


class Saved(NamedTuple):
    """A checkpoint on storage, as far as pruning and choosing need to know it."""

    name: str
    step: int
    miou: float | None
    is_scored_later: bool = False


class Found(NamedTuple):
    """The checkpoint to go on from."""

    name: str
    state: RunState
    skipped: dict[str, str]
    """Newer ones that turned out to be broken: name -> what is wrong."""


def plan_prune(saved: Iterable[Saved], keep_last: int, keep_best: int) -> list[str]:
    """The names of the checkpoints to delete: all but the newest `keep_last` (at least 1) and the best `keep_best`.

    Of equally good ones the newer is better. One that was not validated is never among the best; one whose score is
    still to come is kept.
    """
    newest_first = sorted(saved, key=lambda one: one.step, reverse=True)
    best_first = sorted(
        (one for one in newest_first if one.miou is not None), key=lambda one: (one.miou, one.step), reverse=True
    )
    later = (one for one in newest_first if one.is_scored_later)
    kept = {one.name for one in (*newest_first[: max(1, keep_last)], *best_first[:keep_best], *later)}
    return [one.name for one in reversed(newest_first) if one.name not in kept]


def best(saved: Iterable[Saved]) -> Saved | None:
    """The one with the highest mIoU, the newer of equally good ones; None when none was validated."""
    scored = [one for one in saved if one.miou is not None]
    return max(scored, key=lambda one: (one.miou, one.step), default=None)


@dataclass(frozen=True, kw_only=True)
class CheckpointStore:
    """The checkpoints of one run. A value, like the store that it is on."""

    store: Store

    def uri(self, name: str = "") -> str:
        """The address of a checkpoint, or of the folder of all."""
        return self.store.uri(name)

    def names(self) -> list[str]:
        """The checkpoints, oldest first."""
        return [key.removesuffix(f"/{STATE}") for key in self.store.list() if key.endswith(f"/{STATE}")]

    def saved(self) -> list[Saved]:
        """The checkpoints with their scores, oldest first; one whose state can't be read is left out with a warning."""
        found = []
        for name in self.names():
            try:
                state = self.read_state(name)
            except BrokenCheckpoint as fault:
                _logger.warning("%s: left out: %s", self.uri(name), fault)
            else:
                found.append(Saved(name, state.step, state.miou, state.is_scored_later))
        return found

    def read_state(self, name: str) -> RunState:
        """The state of a checkpoint, with the score if that came later and is there.

        Raises BrokenCheckpoint when it is missing or not what was written.
        """
        try:
            state = RunState.from_json(self.store.read(f"{name}/{STATE}"))
        except ObjectNotFound:
            raise BrokenCheckpoint(f"{STATE}: missing") from None
        if state.is_scored_later:
            with suppress(ObjectNotFound):
                scores = json.loads(self.store.read(f"{name}/{SCORES}"))
                return replace(state, **scores, is_scored_later=False)
        return state

    def write_scores(self, name: str, miou: float, iou: Sequence[float]) -> None:
        """Put the score of a checkpoint that is scored later beside it; NaN is the IoU of a class that is nowhere."""
        scores = {"miou": miou, "iou": [None if isnan(each) else each for each in iou]}
        write_patiently(lambda: self.store.write(f"{name}/{SCORES}", json.dumps(scores).encode()))

    def fetch(self, name: str, folder: Path, files: Sequence[str] | None = None) -> RunState:
        """Download a checkpoint (`files` of it, all by default) into `folder`, and verify it against its state.

        Raises BrokenCheckpoint naming the file when one is missing or not what was written.
        """
        state = self.read_state(name)
        self._fetch(name, folder, state, state.files if files is None else files)
        return state

    def fetch_scored(self, name: str, folder: Path) -> RunState:
        """Like `fetch`, of the weights alone that the checkpoint's score is of: the state's `scored_weights`."""
        state = self.read_state(name)
        self._fetch(name, folder, state, [state.scored_weights])
        return state

    def _fetch(self, name: str, folder: Path, state: RunState, files: Iterable[str]) -> None:
        for file in files:
            (folder / file).write_bytes(self._read_verified(name, file, state))
        (folder / STATE).write_text(state.to_json())

    def _read_verified(self, name: str, file: str, state: RunState) -> bytes:
        expected, what = state.files[file], ""
        for _ in range(2):  # a fault of the transfer is gone the second time
            try:
                data = self.store.read(f"{name}/{file}")
            except ObjectNotFound:
                raise BrokenCheckpoint(f"{file}: missing") from None
            if len(data) == expected.bytes and hashlib.sha256(data).hexdigest() == expected.sha256:
                return data
            what = "its digest is wrong" if len(data) == expected.bytes else f"{len(data)} of {expected.bytes} bytes"
        raise BrokenCheckpoint(f"{file}: {what}")

    def fetch_newest(self, folder: Path) -> Found | None:
        """Download the newest checkpoint that is whole into `folder`; None when there is none at all.

        Raises StorageError when there are checkpoints, and none of them is whole.
        """
        skipped: dict[str, str] = {}
        for name in reversed(self.names()):
            try:
                return Found(name, self.fetch(name, folder), skipped)
            except BrokenCheckpoint as fault:
                skipped[name] = str(fault)
        if skipped:
            faults = "; ".join(f"{name}: {fault}" for name, fault in skipped.items())
            raise StorageError(f"{self.uri()}: no checkpoint is whole: {faults}: start anew with another --name")
        return None

    def save(self, folder: Path, name: str) -> None:
        """Upload a checkpoint from `folder`, state.json last, trying again for long what may pass.

        What can't be stored whole is deleted again as far as that can be done: a full disk has no room for halves.
        """
        state = RunState.from_json((folder / STATE).read_bytes())
        try:
            for file in (*state.files, STATE):
                write_patiently(lambda file=file: self.store.upload(f"{name}/{file}", folder / file))  # type: ignore[misc]
        except (StorageError, InputError):
            with suppress(StorageError, InputError):
                self.delete(name)
            raise

    def replace_state(self, name: str, state: RunState) -> None:
        """Give a checkpoint another state.json, of the same files."""
        write_patiently(lambda: self.store.write(f"{name}/{STATE}", state.to_json().encode()))

    def delete(self, name: str) -> None:
        """Delete a checkpoint, or what there is of one: state.json first, so that no half of it is taken for whole."""
        self.store.delete(f"{name}/{STATE}")
        for key in self.store.list(f"{name}/"):
            self.store.delete(key)

    def prune(self, keep_last: int, keep_best: int) -> None:
        """Delete the checkpoints that `plan_prune` names. What can't be deleted now is named again the next time."""
        try:
            for name in plan_prune(self.saved(), keep_last, keep_best):
                self.delete(name)
        except (StorageError, InputError) as error:
            _logger.warning("old checkpoints could not be deleted: %s", first_line(error))

    def delete_partial(self) -> list[str]:
        """Delete what dead attempts left of checkpoints that they did not finish; returns their names."""
        whole = set(self.names())
        partial = sorted({key.partition("/")[0] for key in self.store.list()} - whole)
        for name in partial:
            self.delete(name)
        return partial


def open_checkpoints(storage: str, name: str) -> CheckpointStore:
    """The checkpoints of the run called `name` below `storage`, a URI."""
    return CheckpointStore(store=open_store(f"{runs_uri(storage)}/{name}/checkpoints"))
