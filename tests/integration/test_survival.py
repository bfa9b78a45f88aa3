"""What a run survives: bugs are told from chance, killed workers and stopped drivers are gone on from."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from infra.local import stack as local_stack
from pipeline.resume import run_store
from pipeline.storage import Store
from pipeline.timeline import EVENTS
from tests.conftest import RunningStack
from tests.integration.command import ENCNET, TIMEOUT_S, json_result, run_encnet
from tests.integration.conftest import TINY

STORAGE = "s3://encnet"


def _events(name: str) -> list[dict[str, Any]]:
    store = run_store(STORAGE, name)
    return list(json.loads(store.read(EVENTS))) if store.exists(EVENTS) else []


def _kinds(name: str) -> list[str]:
    return [event["kind"] for event in _events(name)]


def _states(store: Store) -> list[str]:
    return [key for key in store.list("checkpoints/") if key.endswith("state.json")]


def _wait(what: Callable[[], Any], run: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not what():
        assert run.poll() is None, f"the run ended early:\n{log.read_text()}"
        assert time.monotonic() < until, f"it did not come:\n{log.read_text()}"
        time.sleep(0.3)


@contextmanager
def _running(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`encnet ARGUMENTS` beside the test; killed at its end if it is still there."""
    with log.open("wb") as output:
        run = subprocess.Popen([*ENCNET, *arguments], stdout=output, stderr=output)
    try:
        yield run
    finally:
        run.kill()
        run.wait()


def _training_workers(stack: RunningStack) -> list[psutil.Process]:
    head = next(part.pid for part in local_stack.status(stack.home) if part.name == "ray")
    children = psutil.Process(head).children(recursive=True)
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "RayTrainWorker" in " ".join(child.cmdline())]


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
    steps, log, store = 40, tmp_path / "log", run_store(STORAGE, "killed")
    command = [*TINY, f"--data={scenes}", "--name=killed", f"--optim.max-steps={steps}", "--num-workers=2"]
    with _running(log, *command) as run:
        _wait(lambda: _states(store), run, log)
        _training_workers(stack)[-1].kill()
        _wait(lambda: _kinds("killed").count("workers") == 2, run, log)
        run.send_signal(signal.SIGTERM)
        assert run.wait(TIMEOUT_S) == 143, log.read_text()
    state = json.loads(store.read(_states(store)[-1]))
    assert state["ended"] == "stopped"
    assert state["step"] == len(state["losses"]) < steps
    assert log.read_text().splitlines()[-1] == (
        f"encnet: stopped by SIGTERM; the newest checkpoint is of step {state['step']}: go on with "
        "encnet train --resume killed"
    )
    assert "worker death of worker " in log.read_text()
    refused = run_encnet("train", "--resume=killed", "--optim.lr=0.5")
    assert refused.returncode == 2
    assert "optim.lr: 0.5, but the run 'killed' was started with 0.002" in refused.stderr
    # Elastic: two workers of three CPUs have no room on the stack's node, one has.
    elastic = ("--num-workers=1:2", "--workers.cpus=3")
    resumed = json_result(run_encnet("train", "--resume=killed", *elastic, "--json"))
    assert resumed["steps"] == len(resumed["losses"]) == steps
    assert resumed["losses"][: state["step"]] == state["losses"]
    assert _kinds("killed") == [
        *("started", "workers", "failed", "restarting"),
        *("resumed", "workers", "stopped"),
        *("resumed", "workers", "finished"),
    ]
    assert [event["workers"] for event in _events("killed") if event["kind"] == "workers"] == [2, 2, 1]
    again = json_result(run_encnet("train", "--resume=killed", "--json"))
    assert again == resumed
