"""Checkpoints on their way to storage, beside training, by Ray Train's asynchronous reports.

What the loop waits for is the copy of weights and optimizer state; files are written and uploaded by a thread, one
checkpoint after the other. At most two are on their way: the loop waits with a third, and one that is only due by the
clock is not taken before storage has the ones before.

A checkpoint that can't be stored is let go with a warning, and the next one is due a minute later. When three in a row
are lost, or the last of the run is, the run fails: it could not be resumed from anything recent.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ray.train

from pipeline.checkpoint import RunState, Snapshot, write_snapshot
from pipeline.checkpoint_store import CheckpointStore
from pipeline.config import CheckpointConfig
from pipeline.errors import InputError, StorageError, first_line

MAX_ON_THEIR_WAY = 2
MAX_LOST_IN_A_ROW = 3


class Uploads:
    """The checkpoints of one attempt on their way; rank 0 has it.

    Args:
        resumed: the state that the attempt began with.
        committed: called by a thread with the step of each checkpoint that is on storage, whole.
        lost: called by a thread with the step and the reason for each that could not be stored.
    """

    def __init__(
        self,
        checkpoints: CheckpointStore,
        config: CheckpointConfig,
        resumed: RunState,
        committed: Callable[[int], None],
        lost: Callable[[int, str], None],
    ) -> None:
        self._checkpoints, self._config = checkpoints, config
        self._newest, self._committed, self._lost = resumed, committed, lost
        self._on_their_way, self._lost_in_a_row = 0, 0
        self._fault: StorageError | InputError | None = None
        self._changed = threading.Condition()

    @property
    def is_idle(self) -> bool:
        """Whether storage has all that was taken, as far as it could be stored."""
        return self._on_their_way == 0

    def lost_one(self) -> bool:
        """Whether the last checkpoint was lost; raises why when too many in a row were."""
        if self._fault and self._lost_in_a_row >= MAX_LOST_IN_A_ROW:
            raise self._fault
        return self._fault is not None

    def report(self, snapshot: Snapshot) -> None:
        """Hand a checkpoint to Ray Train, to be validated by it if it is to be scored later.

        The other ranks call `report_nothing` at the same step.
        """
        self.begin()
        counted = _counted(snapshot.state.name)

        def upload(_: ray.train.Checkpoint, __: str) -> ray.train.Checkpoint:
            self.upload(snapshot)
            return counted

        ray.train.report(
            {"step": snapshot.state.step, "miou": snapshot.state.miou},
            counted,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=upload,
            checkpoint_dir_name=snapshot.state.name,
            delete_local_checkpoint_after_upload=False,
            validation=snapshot.state.is_scored_later,
        )

    def begin(self) -> None:
        """Count one more on its way, once there are few enough."""
        with self._changed:
            self._changed.wait_for(lambda: self._on_their_way < MAX_ON_THEIR_WAY)
            self._on_their_way += 1

    def upload(self, snapshot: Snapshot) -> None:
        """Write, upload and count one checkpoint, then delete those that are not to be kept. On a thread of Ray's."""
        step = snapshot.state.step
        try:
            self._newest = self._store(snapshot)
        except (StorageError, InputError, OSError) as error:
            self._lost_in_a_row += 1
            self._fault = error if isinstance(error, StorageError | InputError) else StorageError(str(error))
            self._lost(step, first_line(error))
        else:
            self._lost_in_a_row, self._fault = 0, None
            self._committed(step)
            self._checkpoints.prune(self._config.keep_last, self._config.keep_best)
        finally:
            with self._changed:
                self._on_their_way -= 1
                self._changed.notify_all()

    def _store(self, snapshot: Snapshot) -> RunState:
        state = snapshot.state
        if self._newest.files and self._newest.step == state.step:  # the same weights, by now with a score
            state = replace(state, files=self._newest.files)
            self._checkpoints.replace_state(state.name, state)
            return state
        with tempfile.TemporaryDirectory(prefix="encnet-checkpoint-") as folder:
            state = write_snapshot(Path(folder), snapshot)
            self._checkpoints.save(Path(folder), state.name)
            return state

    def finish(self) -> None:
        """Wait until storage has all of them; raise the fault of the last one when it was lost."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_idle)
        if self._fault:
            raise self._fault


def report_nothing(name: str) -> None:
    """What the other ranks do where rank 0 reports a checkpoint."""
    ray.train.report({}, checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC, checkpoint_dir_name=name)


def report_unscored(name: str) -> None:
    """Have a checkpoint on storage validated, which an earlier attempt did not live to see; on rank 0."""
    ray.train.report(
        {},
        _counted(name),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        checkpoint_dir_name=name,
        validation=True,
    )


def _counted(name: str) -> ray.train.Checkpoint:
    """What Ray Train counts as the checkpoint `name`. Below its own folder there is nothing of ours, nor looked for."""
    storage = ray.train.get_context().get_storage()
    return ray.train.Checkpoint(f"{storage.experiment_fs_path}/{name}", storage.storage_filesystem)
