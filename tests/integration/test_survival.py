"""What a run survives: bugs are told from chance, killed workers and stopped drivers are gone on from."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from pipeline.resume import run_store
from tests.integration.command import ENCNET, TIMEOUT_S, json_result, run_encnet
from tests.integration.conftest import TINY
from tests.integration.running import STORAGE, run_events, running, training_workers
from tests.running_stack import RunningStack


def _kinds(name: str) -> list[str]:
    return [event["kind"] for event in run_events(STORAGE, name)]


def test_the_same_exception_at_the_same_step_is_not_tried_a_third_time(stack: RunningStack) -> None:
    command = [sys.executable, "-m", "tests.integration.buggy_run", "poison"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "run 'poison': worker error of worker 1 at step 3: a bug (ValueError); the same ValueError at step 3 for the "
        "second time: it is not by chance; what is checkpointed, up to step 0, is kept in "
    )
    attempt = ["started", "workers", "failed"]
    assert _kinds("poison") == [*attempt, "restarting", *attempt, "gave up"]
    attempts = run_store(STORAGE, "poison").list("ray/attempt_")
    assert {key.split("/")[1] for key in attempts} == {"attempt_001", "attempt_002"}


def test_a_killed_worker_and_sigterm_cost_no_step(stack: RunningStack, scenes: str, tmp_path: Path) -> None:
    steps = 40
    command = [*ENCNET, *TINY, f"--data={scenes}", "--name=killed", f"--optim.max-steps={steps}", "--num-workers=2"]
    with running(command, "killed", tmp_path) as run:
        run.wait_for_checkpoint()
        training_workers(stack)[-1].kill()
        run.wait_for("new workers", lambda: len(run.events("workers")) == 2)
        run.process.send_signal(signal.SIGTERM)
        run.end(143)
    state = run.checkpoints.read_state(run.checkpoints.names()[-1])
    assert state.ended == "stopped"
    assert state.step == len(state.losses) < steps
    assert run.log().splitlines()[-1] == (
        f"encnet: stopped by SIGTERM; the newest checkpoint is of step {state.step}: go on with "
        "encnet train --resume killed"
    )
    assert "worker death of worker " in run.log()
    refused = run_encnet("train", "--resume=killed", "--optim.lr=0.5")
    assert refused.returncode == 2
    assert "optim.lr: 0.5, but the run 'killed' was started with 0.002" in refused.stderr
    # Elastic: two workers of three CPUs have no room on the stack's node, one has.
    elastic = ("--num-workers=1:2", "--workers.cpus=3")
    resumed = json_result(run_encnet("train", "--resume=killed", *elastic, "--json"))
    assert resumed["steps"] == len(resumed["losses"]) == steps
    assert resumed["losses"][: state.step] == state.losses
    assert _kinds("killed") == [
        *("started", "workers", "failed", "restarting"),
        *("resumed", "workers", "stopped"),
        *("resumed", "workers", "finished"),
    ]
    assert [event["workers"] for event in run.events("workers")] == [2, 2, 1]
    again = json_result(run_encnet("train", "--resume=killed", "--json"))
    assert again == resumed


HOLDS = """
import sys
from pipeline.cluster import connect_ray, run_board
connect_ray()
with run_board("s3://encnet", "held", resume=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_drive_one_run(stack: RunningStack, scenes: str) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    try:
        assert holder.stdout.readline() == "held\n"
        refused = run_encnet(*TINY, f"--data={scenes}", "--name=held", "--num-workers=1")
    finally:
        holder.kill()
        holder.communicate()
    assert refused.returncode == 2, refused.stderr
    assert "name: run 'held' in s3://encnet is under way: another process of this cluster" in refused.stderr
    assert run_store(STORAGE, "held").list() == []
    after = subprocess.run(
        [sys.executable, "-c", HOLDS], input="", capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert after.stdout == "held\n", f"what a dead process held is free again: {after.stderr}"
