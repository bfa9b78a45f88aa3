"""A training worker is killed between two checkpoints: the run recovers by itself and ends as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.command import ENCNET, json_result, run_encnet
from tests.integration.conftest import TINY
from tests.integration.running import running, training_workers
from tests.running_stack import RunningStack

STEPS = 20


@pytest.fixture(scope="module")
def data(stack: RunningStack) -> str:
    uri = "s3://encnet/drills/scenes"
    done = run_encnet("data", "prepare", "context-scenes", "--dest", uri, "--train-samples=16", "--val-samples=4")
    assert done.returncode == 0, done.stderr
    return uri


def test_run_with_a_killed_worker_equals_the_undisturbed_run(stack: RunningStack, data: str, tmp_path: Path) -> None:
    command = [*TINY, f"--data={data}", f"--optim.max-steps={STEPS}"]
    undisturbed = json_result(run_encnet(*command, "--name=undisturbed"))
    with running([*ENCNET, *command, "--name=disturbed"], "disturbed", tmp_path) as run:
        run.wait_for_checkpoint()
        training_workers(stack)[0].kill()
        disturbed = run.result()
    assert disturbed["steps"] == undisturbed["steps"] == STEPS
    assert disturbed["losses"] == pytest.approx(undisturbed["losses"], rel=1e-4)
    assert disturbed["miou"] == pytest.approx(undisturbed["miou"], abs=1e-3)
