"""A run's driver goes, and the run is gone on with by hand: from the newest checkpoint that is whole."""

from __future__ import annotations

import signal
import time

from pipeline.checkpoint import WEIGHTS
from tests.drills.drill import Drills, num_redone


def test_the_driver_is_killed(drills: Drills) -> None:
    with drills.run("killed-driver") as run:
        run.wait_for_checkpoint()
        fault_at = time.time()
        run.process.kill()
        run.process.wait()
    with drills.resumed("killed-driver") as run:
        run.wait_for_checkpoint(after=run.step())
        seconds = time.time() - fault_at
        drills.judge("SIGKILL of the driver; resumed by hand", run, recovery_s=seconds, redone=None)


def test_the_driver_is_asked_to_stop(drills: Drills) -> None:
    with drills.run("stopped-driver") as run:
        run.wait_for_checkpoint()
        fault_at = time.time()
        run.process.send_signal(signal.SIGTERM)
        run.end(128 + signal.SIGTERM)
    with drills.resumed("stopped-driver") as run:
        (stopped,) = run.events("stopped")
        run.wait_for_checkpoint(after=stopped["step"])
        seconds = time.time() - fault_at
        drills.judge("SIGTERM of the driver; resumed by hand", run, recovery_s=seconds, redone=num_redone(run))
    assert num_redone(run) == 0


def test_the_newest_checkpoint_is_broken(drills: Drills) -> None:
    with drills.run("broken-checkpoint") as run:
        run.wait_for_checkpoint(after=run.wait_for_checkpoint())
        run.process.send_signal(signal.SIGTERM)
        run.end(128 + signal.SIGTERM)
    before, newest = run.checkpoints.names()[-2:]
    store, key = run.checkpoints.store, f"{newest}/{WEIGHTS}"
    weights = bytearray(store.read(key))
    weights[len(weights) // 2] ^= 1
    store.write(key, bytes(weights))
    fault_at, done = time.time(), run.step()
    with drills.resumed("broken-checkpoint") as run:
        run.wait_for("the checkpoint to be found broken", lambda: run.events("broken checkpoint"))
        (found,) = run.events("broken checkpoint")
        run.wait_for_checkpoint(after=done)
        seconds, again = time.time() - fault_at, done - found["step"]
        drills.judge("a bit of the newest checkpoint is wrong; resumed by hand", run, recovery_s=seconds, redone=again)
    assert found["detail"] == f"{newest}: {WEIGHTS}: its digest is wrong; going on from {before}"
