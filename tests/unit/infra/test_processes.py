"""Starting processes that outlive us, finding them again, stopping them: on real processes."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.local import processes
from infra.local.errors import StackError
from infra.local.processes import ProcessId

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(300)"]
# Ignores SIGTERM, and starts a child in a session of its own before saying that it is ready.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)"], start_new_session=True)
print("ready", child.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture
def mark() -> Iterator[str]:
    name = f"test:{uuid.uuid4()}"
    yield name
    for process in processes.marked(name):
        process.kill()


def start(command: list[str], tmp_path: Path, mark: str) -> ProcessId:
    return processes.start(command, cwd=tmp_path, environ=dict(os.environ), log=tmp_path / "log", mark=mark)


def wait_for(what: Callable[[], str]) -> str:
    deadline = time.monotonic() + 20
    while not (value := what()):
        assert time.monotonic() < deadline, "did not happen within 20 s"
        time.sleep(0.02)
    return value


def test_a_started_process_is_nobodys_child_and_leads_its_session(tmp_path: Path, mark: str) -> None:
    process = start(SLEEP, tmp_path, mark)
    found = psutil.Process(process.pid)
    assert found.ppid() != os.getpid()
    assert os.getsid(process.pid) == process.pid
    assert processes.is_alive(process)
    assert [other.pid for other in processes.marked(mark)] == [process.pid]
    assert processes.stop(process, mark, grace_s=10) == [process.pid]
    assert not processes.is_alive(process)


def test_output_goes_to_a_private_log_and_the_last_one_is_kept(tmp_path: Path, mark: str) -> None:
    log = tmp_path / "log"
    for word in ("first", "second"):
        start(
            [sys.executable, "-S", "-c", f"import sys, time; print('{word}', flush=True); time.sleep(300)"],
            tmp_path,
            mark,
        )
        wait_for(log.read_text)
        processes.stop(None, mark, grace_s=5)
    assert log.read_text() == "second\n"
    assert (tmp_path / "log.old.log").read_text() == "first\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_pid_that_belongs_to_another_by_now_is_not_alive(tmp_path: Path, mark: str) -> None:
    process = start(SLEEP, tmp_path, mark)
    assert not processes.is_alive(ProcessId(pid=process.pid, created=process.created - 60))
    assert not processes.is_alive(ProcessId(pid=os.getpid(), created=process.created + 3600))


def test_stop_does_not_touch_what_it_did_not_start(tmp_path: Path, mark: str) -> None:
    foreign = start(SLEEP, tmp_path, f"{mark}:other")
    try:
        reused = ProcessId(pid=foreign.pid, created=foreign.created - 60)
        assert processes.stop(reused, mark, grace_s=5) == []
        assert processes.is_alive(foreign)
    finally:
        processes.stop(foreign, f"{mark}:other", grace_s=5)


def test_a_stubborn_process_is_killed_and_its_child_in_another_session_too(tmp_path: Path, mark: str) -> None:
    process = start([sys.executable, "-S", "-c", STUBBORN], tmp_path, mark)
    child = int(wait_for((tmp_path / "log").read_text).split()[1])
    assert processes.stop(process, mark, grace_s=0.2) == [process.pid, child]
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_left_overs_of_a_killed_process_are_found(tmp_path: Path, mark: str) -> None:
    process = start([sys.executable, "-S", "-c", STUBBORN], tmp_path, mark)
    child = int(wait_for((tmp_path / "log").read_text).split()[1])
    psutil.Process(process.pid).kill()
    wait_for(lambda: "" if processes.is_alive(process) else "ended")
    assert processes.stop(process, mark, grace_s=5) == [child]
    assert processes.marked(mark) == []


def test_a_program_that_is_not_there_is_named(tmp_path: Path, mark: str) -> None:
    with pytest.raises(StackError, match=r"/no/such/program: can't be started: .*No such file"):
        start(["/no/such/program"], tmp_path, mark)
