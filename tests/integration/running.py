"""A training run that goes on beside a test, which waits for what it does and breaks things meanwhile."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.local import stack as local_stack
from pipeline.checkpoint_store import CheckpointStore, open_checkpoints
from pipeline.resume import run_store
from pipeline.timeline import EVENTS
from tests.integration.command import TIMEOUT_S, json_result
from tests.running_stack import RunningStack

STORAGE = "s3://encnet"


@dataclass(frozen=True)
class Run:
    """The run called `name`, of which `encnet` is under way as `process`."""

    name: str
    process: subprocess.Popen[bytes]
    folder: Path
    """Has what the command wrote: stdout and stderr."""
    storage: str

    def log(self) -> str:
        """What stands on stderr by now."""
        return (self.folder / "stderr").read_text()

    @property
    def checkpoints(self) -> CheckpointStore:
        return open_checkpoints(self.storage, self.name)

    def step(self) -> int:
        """Of the newest checkpoint on storage; 0 for none."""
        names = self.checkpoints.names()
        return int(names[-1].removeprefix("step_")) if names else 0

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The run's timeline; of these kinds where some are named."""
        return [event for event in run_events(self.storage, self.name) if not kinds or event["kind"] in kinds]

    def wait_for(self, what: str, condition: Callable[[], object]) -> float:
        """Wait for a condition while the run goes on; returns the seconds it took."""

        def holds() -> object:
            has_ended = self.process.poll() is not None  # looked up first: the end may be what brings it about
            found = condition()
            assert found or not has_ended, f"the run ended before {what}"
            return found

        try:
            return wait_until(holds, TIMEOUT_S, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def wait_for_checkpoint(self, after: int = 0) -> int:
        """Wait until there is a checkpoint of a step beyond `after`; returns its step."""
        self.wait_for(f"a checkpoint after step {after}", lambda: self.step() > after)
        return self.step()

    def end(self, code: int = 0) -> None:
        """Wait for the command's end, which must be with that exit code."""
        assert self.process.wait(TIMEOUT_S) == code, self.log()

    def result(self) -> dict[str, Any]:
        """The JSON object that a good end leaves."""
        self.end()
        return json_result(subprocess.CompletedProcess([], 0, (self.folder / "stdout").read_text(), ""))


@contextmanager
def running(
    command: Sequence[str], name: str, folder: Path, *, storage: str = STORAGE, environ: Mapping[str, str] | None = None
) -> Iterator[Run]:
    """A command that trains the run called `name`; killed at the end if it is still there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, env=environ, stdout=stdout, stderr=stderr)
    try:
        yield Run(name, process, folder, storage)
    finally:
        process.kill()
        process.wait()


def run_events(storage: str, name: str) -> list[dict[str, Any]]:
    """A run's timeline as it is stored."""
    store = run_store(storage, name)
    return list(json.loads(store.read(EVENTS))) if store.exists(EVENTS) else []


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> float:
    """Wait for a condition, and return the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def training_workers(stack: RunningStack) -> list[psutil.Process]:
    """The processes on the stack's Ray node that train."""
    head = next(part.pid for part in local_stack.status(stack.home) if part.name == "ray")
    children = psutil.Process(head).children(recursive=True)
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "RayTrainWorker" in " ".join(child.cmdline())]
