"""Starting processes that outlive us, finding ours again, and stopping them: by pid, never by name.

Every process of a part carries MARK in its environment, and so do its descendants, whatever session they moved to
and whoever their parent is by now. That finds the left-overs of a part whose first process was killed, without
trusting a pid that may since belong to another program.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from infra.local.errors import StackError

MARK = "ENCNET_STACK_PART"

# Starting through a second process that ends at once makes init the parent: whoever calls `start` has no child to
# wait for, and so leaves no zombie behind however long it lives.
_DETACH = """
import subprocess, sys
log = open(sys.argv[1], "ab")
process = subprocess.Popen(
    sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
)
process.returncode = 0
print(process.pid)
"""


class ProcessId(BaseModel):
    """A process, told from any later one with the same pid by the time it was created (seconds since 1970)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    created: float


def start(command: Sequence[str], *, cwd: Path, environ: Mapping[str, str], log: Path, mark: str) -> ProcessId:
    """Start `command` in a session of its own, its output in `log`, and return which process it is.

    Raises StackError if it can't be started.
    """
    if log.exists():
        log.replace(log.with_suffix(".old.log"))
    os.close(os.open(log, os.O_CREAT | os.O_WRONLY, 0o600))
    starter = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _DETACH, str(log), *command],
        cwd=cwd,
        env={**environ, MARK: mark},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if starter.returncode != 0:
        reason = (starter.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StackError(f"{command[0]}: can't be started: {reason}")
    pid = int(starter.stdout)
    try:
        return ProcessId(pid=pid, created=psutil.Process(pid).create_time())
    except psutil.NoSuchProcess as error:
        raise StackError(f"{command[0]}: stopped at once: see {log}") from error


def is_alive(process: ProcessId) -> bool:
    """Whether `process` still runs: not ended, not a zombie, and not another process with its pid."""
    try:
        found = psutil.Process(process.pid)
        # To within a second: the system derives it from the clock, which may be set meanwhile.
        return abs(found.create_time() - process.created) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def marked(mark: str) -> list[psutil.Process]:
    """Return the running processes that carry `mark`, this one excepted."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _mark_of(process) == mark]


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK)
    except (psutil.Error, OSError):
        # Another user's process, or one that has just ended: not ours.
        return None


def stop(first: ProcessId | None, mark: str, grace_s: float) -> list[int]:
    """Stop the part marked `mark` and return the pids of what was stopped, its first process first.

    Its first process gets SIGTERM, since it knows best how to end the rest, and SIGKILL after `grace_s` seconds;
    then what is left gets SIGTERM, and SIGKILL two seconds later.
    Raises StackError if a process survives even that.
    """
    stopped: list[int] = []
    if first is not None and is_alive(first):
        stopped.append(first.pid)
        _end([psutil.Process(first.pid)], grace_s)
    # A process may have had a child while it was being stopped, hence more than one look.
    for _ in range(5):
        left = marked(mark)
        if not left:
            return stopped
        stopped += [process.pid for process in left if process.pid not in stopped]
        _end(left, grace_s=2.0)
    left_pids = [process.pid for process in marked(mark)]
    if left_pids:
        raise StackError(f"pids {left_pids} do not end, not even killed: look at them with `ps`")
    return stopped


def _end(targets: list[psutil.Process], grace_s: float) -> None:
    for process in targets:
        _signal(process, kill=False)
    survivors = _wait(targets, grace_s)
    for process in survivors:
        _signal(process, kill=True)
    _wait(survivors, 2.0)


def _wait(targets: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until `targets` have ended, at most `timeout_s`, and return those that have not.

    A zombie has ended: in a container whose first process does not collect them they stay for ever.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        targets = [process for process in targets if not _has_ended(process)]
        if not targets or time.monotonic() > deadline:
            return targets
        time.sleep(0.05)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        # It ended between being found and being signalled, which is what was wanted.
        return
