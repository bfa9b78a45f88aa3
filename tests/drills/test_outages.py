"""What a run needs goes away for a while: the store, MLflow, room on the disk. It goes on as if nothing had been."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.tracking import RUN_TAG
from tests.drills.drill import Drills, num_redone


def test_the_store_is_away(drills: Drills) -> None:
    with drills.run("no-store") as run:
        known, fault_at = run.wait_for_checkpoint(), time.time()
        with drills.cluster.way("AWS_ENDPOINT_URL").closed():
            time.sleep(20)
        run.wait_for_checkpoint(after=known)
        seconds = time.time() - fault_at
        drills.judge("the store is away for 20 s", run, recovery_s=seconds, redone=num_redone(run))
    assert not run.events("failed")


def test_mlflow_is_away(drills: Drills) -> None:
    with drills.run("no-mlflow") as run:
        run.wait_for_checkpoint()
        fault_at = time.time()
        with drills.cluster.way("MLFLOW_TRACKING_URI").closed():
            time.sleep(30)
            known = _last_point(drills, run.name)
        run.wait_for("points in MLflow", lambda: _last_point(drills, run.name) > known)
        seconds = time.time() - fault_at
        drills.judge("MLflow is away for 30 s, until it has points", run, recovery_s=seconds, redone=num_redone(run))
    assert not run.events("failed")


def test_the_disk_is_full(drills: Drills) -> None:
    with drills.run("full-disk", storage=str(drills.small_disk)) as run:
        known, fault_at = run.wait_for_checkpoint(), time.time()
        with _filled(drills.small_disk):
            run.wait_for("a checkpoint to be lost", lambda: "lost checkpoint: " in run.log())
            time.sleep(max(0.0, fault_at + 20 - time.time()))
        run.wait_for_checkpoint(after=known)
        seconds = time.time() - fault_at
        drills.judge("no byte of room on the disk for 20 s", run, recovery_s=seconds, redone=num_redone(run))
    assert "No space left on device" in run.log()


def _last_point(drills: Drills, name: str) -> int:
    """The last step of which MLflow has a point of the run called `name`; 0 where it has none."""
    experiment = drills.mlflow.get_experiment_by_name("encnet")
    assert experiment
    (run,) = drills.mlflow.search_runs([experiment.experiment_id], f"tags.`{RUN_TAG}` = '{name}'")
    return max(drills.point_steps(run.info.run_id).get("train/loss", [0]))


@contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """Leave no room on a disk, until this is closed."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        yield
    finally:
        filler.unlink()
