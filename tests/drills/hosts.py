"""Several hosts on this one: network namespaces on a bridge, whose cables can really be cut.

Each host has an address of its own, 10.77.0.1, .2, ... on eth0, and loopback. What listens on this machine's loopback
(the store, MLflow) is reached on each host's own loopback, at the same ports, through relays over the cable.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

NETWORK = "10.77.0"
SWITCH = f"{NETWORK}.254"


def unable() -> str:
    """Why hosts can't be made here; empty where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need `ip`: install iproute2"
    probe = f"enc{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces can't be made here: {made.stderr.strip()}"
    _ip("netns", "delete", probe)
    return ""


@dataclass(frozen=True)
class Host:
    """One of them; number 1, 2, ..."""

    number: int

    @property
    def name(self) -> str:
        """Of its network namespace."""
        return f"enc{os.getpid()}-{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def cable(self) -> str:
        """The end of its cable at the switch."""
        return f"enc{os.getpid() % 100000}p{self.number}"

    def command(self, *command: str) -> list[str]:
        """The command line that runs `command` on this host."""
        return ["ip", "netns", "exec", self.name, *command]

    def pids(self) -> list[int]:
        """All processes on this host."""
        listed = _ip("netns", "pids", self.name)
        return [int(pid) for pid in listed.split()]

    def kill_all(self) -> None:
        """What a loss of power does."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def cut(self) -> None:
        """Pull the cable out; nobody is told."""
        _ip("link", "set", self.cable, "down")

    def heal(self) -> None:
        """Put it back in."""
        _ip("link", "set", self.cable, "up")


@dataclass
class Hosts:
    """The hosts of one drill."""

    hosts: list[Host]
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, host: Host, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
        """Run a command on a host until the hosts are gone."""
        process = subprocess.Popen(
            host.command(*command), env=dict(environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._started.append(process)
        return process


@contextmanager
def made_hosts(count: int, ports: Sequence[int]) -> Iterator[Hosts]:
    """Hosts 1 .. count, from which loopback's `ports` of this machine can be reached; gone with all that runs there."""
    bridge = f"enc{os.getpid() % 100000}br"
    hosts = [Host(number) for number in range(1, count + 1)]
    with ExitStack() as undo:
        _ip("link", "add", bridge, "type", "bridge")
        undo.callback(_ip, "link", "delete", bridge)
        _ip("address", "add", f"{SWITCH}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host in hosts:
            _plug_in(host, bridge, undo)
        relays = Hosts(hosts)
        relay = [sys.executable, "-m", "tests.drills.relay"]
        numbers = [str(port) for port in ports]
        here = subprocess.Popen([*relay, SWITCH, "127.0.0.1", *numbers], stdout=subprocess.PIPE, text=True)
        undo.callback(_end, here)
        _await_ready(here)
        for host in hosts:
            _await_ready(relays.start(host, [*relay, "127.0.0.1", SWITCH, *numbers], os.environ))
        yield relays


def _plug_in(host: Host, bridge: str, undo: ExitStack) -> None:
    _ip("netns", "add", host.name)
    undo.callback(_take_away, host)
    _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _ip("link", "set", host.cable, "master", bridge, "up")
    for command in (["link", "set", "lo", "up"], ["address", "add", f"{host.address}/24", "dev", "eth0"],
                    ["link", "set", "eth0", "up"]):  # fmt: skip
        _ip("-n", host.name, *command)


def _take_away(host: Host) -> None:
    host.kill_all()
    wait_until(lambda: not host.pids(), 10, f"the processes on {host.name} to end")
    _ip("netns", "delete", host.name)


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", f"{process.args!r}: {line}{process.stdout.read()}"


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(10)


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> float:
    """Wait for a condition, and return the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout
