"""A training worker is killed between two checkpoints: the run recovers by itself and ends as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from infra.local import stack as local_stack
from tests.conftest import RunningStack
from tests.integration.command import ENCNET, json_result, run_encnet
from tests.integration.conftest import TINY

STEPS = 20
WAIT_S = 300.0


@pytest.fixture(scope="module")
def data(stack: RunningStack) -> str:
    uri = "s3://encnet/drills/scenes"
    done = run_encnet("data", "prepare", "context-scenes", "--dest", uri, "--train-samples=16", "--val-samples=4")
    assert done.returncode == 0, done.stderr
    return uri


def test_run_with_a_killed_worker_equals_the_undisturbed_run(stack: RunningStack, data: str, tmp_path: Path) -> None:
    command = [*TINY, f"--data={data}", f"--optim.max-steps={STEPS}"]
    undisturbed = json_result(run_encnet(*command, "--name=undisturbed"))
    output, log = tmp_path / "stdout", tmp_path / "stderr"
    with output.open("w") as stdout, log.open("w") as stderr:
        run = subprocess.Popen([*ENCNET, *command, "--name=disturbed"], stdout=stdout, stderr=stderr)
        _wait_for_checkpoint("disturbed", run)
        os.kill(_training_worker(stack), signal.SIGKILL)
        assert run.wait(WAIT_S) == 0, log.read_text()
    disturbed = json_result(subprocess.CompletedProcess(command, 0, output.read_text(), ""))
    assert disturbed["steps"] == undisturbed["steps"] == STEPS
    assert disturbed["losses"] == pytest.approx(undisturbed["losses"], rel=1e-4)
    assert disturbed["miou"] == pytest.approx(undisturbed["miou"], abs=1e-3)


def _wait_for_checkpoint(name: str, run: subprocess.Popen[bytes]) -> None:
    """Return once the run's first checkpoint is on storage."""
    from pipeline.storage import open_store

    store, until = open_store(f"s3://encnet/runs/{name}"), time.monotonic() + WAIT_S
    while not any(key.endswith("state.json") for key in store.list()):
        assert run.poll() is None, "the run ended before it had a checkpoint"
        assert time.monotonic() < until, "no checkpoint came"
        time.sleep(0.2)


def _training_worker(stack: RunningStack) -> int:
    """The pid of one of the stack's training workers."""
    head = next(part.pid for part in local_stack.status(stack.home) if part.name == "ray")
    workers = [
        child.pid
        for child in psutil.Process(head).children(recursive=True)
        if "RayTrainWorker" in " ".join(child.cmdline())
    ]
    assert workers, "no training worker was found"
    return workers[0]
