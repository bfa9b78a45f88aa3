"""Hosts fail: killed, cut off, gone and back, the driver's too. The run ends as if nothing had been.

Each host is a network namespace of its own, so that what is cut really is cut.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipeline.resume import run_store
from pipeline.timeline import EVENTS
from tests.conftest import RunningStack
from tests.drills import hosts, results
from tests.drills.ray_hosts import RayHosts, ray_hosts
from tests.integration.command import json_result, run_encnet
from tests.integration.conftest import TINY

STORAGE, DATA = "s3://encnet", "s3://encnet/drills/hosts"
STEPS = 60
WAIT_S = 240.0
OPTIONS = (
    f"--data={DATA}",
    f"--optim.max-steps={STEPS}",
    "--checkpoint.every-s=3",
    "--workers.collective-timeout-s=30",
)
_found: list[results.Found] = []


@dataclass(frozen=True)
class Run:
    """`encnet train` on the head host."""

    name: str
    process: subprocess.Popen[bytes]
    folder: Path

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        store = run_store(STORAGE, self.name)
        events = json.loads(store.read(EVENTS)) if store.exists(EVENTS) else []
        return [event for event in events if kind in ("", event["kind"])]

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Until a condition holds, while the run goes on."""

        def holds() -> object:
            assert self.process.poll() is None, f"the run ended early:\n{self.log()}"
            return condition()

        hosts.wait_until(holds, WAIT_S, what)

    def wait_for_checkpoint(self) -> None:
        store = run_store(STORAGE, self.name)
        self.wait_for("a checkpoint", lambda: any("state.json" in key for key in store.list("checkpoints/")))

    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    def result(self) -> dict[str, Any]:
        """Wait for its end, which must be a good one."""
        assert self.process.wait(WAIT_S) == 0, self.log()
        return json_result(subprocess.CompletedProcess([], 0, (self.folder / "stdout").read_text(), ""))


@pytest.fixture(scope="module")
def cluster(stack: RunningStack) -> Iterator[RayHosts]:
    if reason := hosts.unable():
        pytest.skip(reason)
    sizes = ("--train-samples=16", "--val-samples=4")
    json_result(run_encnet("data", "prepare", "context-scenes", "--dest", DATA, *sizes, "--json"))
    with ray_hosts(2, stack.environment) as running:
        yield running
    if _found:
        print("\n" + results.write(_found, STEPS))


@contextmanager
def _train(cluster: RayHosts, folder: Path, name: str, *arguments: str) -> Iterator[Run]:
    folder.mkdir(exist_ok=True)
    command = cluster.head.command(sys.executable, "-m", "workflows.cli", *arguments)
    with (folder / "stdout").open("wb") as output, (folder / "stderr").open("wb") as log:
        process = subprocess.Popen(command, env=dict(cluster.environ), stdout=output, stderr=log)
    try:
        yield Run(name, process, folder)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def undisturbed(cluster: RayHosts, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    name = "hosts-undisturbed"
    with _train(cluster, tmp_path_factory.mktemp(name), name, *TINY, *OPTIONS, f"--name={name}") as run:
        return list(run.result()["losses"])


def _record(drill: str, run: Run, result: dict[str, Any], undisturbed: list[float], fault_at: float) -> None:
    """Judge a run that recovered, and keep what was found."""
    client = mlflow.MlflowClient()
    histories = {
        name: [point.step for point in client.get_metric_history(result["run_id"], name)]
        for name in client.get_run(result["run_id"]).data.metrics
        if name.startswith(("train/", "val/"))
    }
    differing, final = results.compare(result["losses"], undisturbed)
    lost = [event for event in run.events() if event["at"] > fault_at]
    failed = next((event["step"] or 0 for event in lost if event["kind"] in ("failed", "resized")), 0)
    resumed = next((event for event in lost if event["kind"] == "workers"), lost[0])
    found = results.Found(
        drill=drill,
        differing=differing,
        final=final,
        recovery_s=resumed["at"] - fault_at,
        redone=max(0, failed - (resumed["step"] or 0)),
        twice=results.count_twice(histories),
    )
    _found.append(found)
    print(f"\n{found}")
    assert result["steps"] == STEPS
    assert differing == 0
    assert final < 1e-4
    assert found.twice == 0
    assert "train/loss" in histories


def test_a_host_loses_power_and_comes_back(cluster: RayHosts, undisturbed: list[float], tmp_path: Path) -> None:
    name, victim = "hosts-power", cluster.nodes[-1]
    with _train(cluster, tmp_path, name, *TINY, *OPTIONS, f"--name={name}", "--num-workers=1:2") as run:
        run.wait_for_checkpoint()
        fault_at = time.time()
        cluster.lose_power(victim)
        run.wait_for("training on one host", lambda: len(run.events("workers")) > 1)
        cluster.start_node(victim)
        result = run.result()
    _record("a host loses power and comes back; 2 -> 1 -> 2 workers", run, result, undisturbed, fault_at)


def test_a_host_is_cut_off_for_a_while(cluster: RayHosts, undisturbed: list[float], tmp_path: Path) -> None:
    name, victim = "hosts-cut", cluster.nodes[-1]
    with _train(cluster, tmp_path, name, *TINY, *OPTIONS, f"--name={name}", "--num-workers=1:2") as run:
        run.wait_for_checkpoint()
        fault_at = time.time()
        victim.cut()
        try:
            time.sleep(40)
        finally:
            victim.heal()
        result = run.result()
    cluster.restart(victim)
    _record("a host's network is cut for 40 s", run, result, undisturbed, fault_at)


def test_the_driver_is_killed_and_the_run_resumed(cluster: RayHosts, undisturbed: list[float], tmp_path: Path) -> None:
    name = "hosts-driver"
    with _train(cluster, tmp_path / "first", name, *TINY, *OPTIONS, f"--name={name}") as run:
        run.wait_for_checkpoint()
        fault_at = time.time()
        run.process.send_signal(signal.SIGKILL)
        cluster.kill_driver()
        run.process.wait()
    with _train(cluster, tmp_path / "second", name, "train", f"--resume={name}", "--json") as run:
        result = run.result()
    _record("the driver is killed, the run resumed by hand", run, result, undisturbed, fault_at)
