"""What the drills on hosts share: the cluster, and the run that they are compared with."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.drills import hosts, results
from tests.drills.drill import ABOUT, DATA, SIZES, Drills
from tests.drills.ray_hosts import ray_hosts
from tests.integration.command import json_result, run_encnet
from tests.running_stack import RunningStack

_FOUND = pytest.StashKey[list[results.Found]]()


@pytest.fixture(scope="session")
def drills(stack: RunningStack, request: pytest.FixtureRequest) -> Iterator[Drills]:
    """A cluster of two hosts beside the head, and the undisturbed run; skips where hosts can't be made."""
    if reason := hosts.unable():
        pytest.skip(reason)
    json_result(run_encnet("data", "prepare", "context-scenes", "--dest", DATA, *SIZES, "--json"))
    with (
        tempfile.TemporaryDirectory(prefix="encnet-drills-") as name,
        _small_disk(Path(name, "disk")) as disk,  # first: what is mounted later may not be seen on the hosts
        ray_hosts(2, stack.environment) as cluster,
    ):
        found = request.config.stash[_FOUND] = []
        drills = Drills(cluster, Path(name), disk, found)
        drills.leave_alone()
        yield drills


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A file system in memory, with room for some checkpoints."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was found, and keep it."""
    if found := config.stash.get(_FOUND, []):
        terminalreporter.write_line(f"\n{results.write(found, ABOUT)}")
