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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.integration.running import wait_until

NETWORK = "10.77.0"
SWITCH = f"{NETWORK}.254"
_RELAY = "tests.drills.relay"


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

    def pids(self, which: Callable[[str], bool] = lambda command_line: True) -> list[int]:
        """The processes on this host whose command line `which` holds of; all by default."""
        return [int(pid) for pid in _ip("netns", "pids", self.name).split() if which(_command_line(pid))]

    def kill(self, which: Callable[[str], bool] = lambda command_line: True) -> None:
        """SIGKILL to those processes."""
        for pid in self.pids(which):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def lose_power(self) -> None:
        """End all at once; only the way to this machine's ports stays, as it is no part of the host."""
        self.kill(lambda command_line: _RELAY not in command_line)

    def cut(self) -> None:
        """Pull the cable out; nobody is told."""
        _ip("link", "set", self.cable, "down")

    def heal(self) -> None:
        """Put it back in."""
        _ip("link", "set", self.cable, "up")


class Way:
    """The way from all hosts to one port of this machine: a relay at the switch."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._relay: subprocess.Popen[str] | None = None

    def open(self) -> None:
        """Carry connections."""
        self._relay = _start_relay([], SWITCH, "127.0.0.1", [self._port])

    def close(self) -> None:
        """Break all connections; new ones are refused."""
        assert self._relay
        _end(self._relay)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Closed for as long as this is open."""
        self.close()
        try:
            yield
        finally:
            self.open()


@dataclass(frozen=True)
class Hosts:
    """The hosts of the drills."""

    hosts: list[Host]
    ways: dict[int, Way]
    """By port of this machine."""


@contextmanager
def made_hosts(count: int, ports: Sequence[int]) -> Iterator[Hosts]:
    """Hosts 1 .. count, from which loopback's `ports` of this machine can be reached; gone with all that runs there."""
    bridge = f"enc{os.getpid() % 100000}br"
    hosts = Hosts([Host(number) for number in range(1, count + 1)], {port: Way(port) for port in ports})
    with ExitStack() as undo:
        _ip("link", "add", bridge, "type", "bridge")
        undo.callback(_ip, "link", "delete", bridge)
        _ip("address", "add", f"{SWITCH}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for way in hosts.ways.values():
            way.open()
            undo.callback(way.close)
        for host in hosts.hosts:
            _plug_in(host, bridge, undo)
            undo.callback(_end, _start_relay(host.command(), "127.0.0.1", SWITCH, ports))
        yield hosts


def _plug_in(host: Host, bridge: str, undo: ExitStack) -> None:
    _ip("netns", "add", host.name)
    undo.callback(_take_away, host)
    _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _ip("link", "set", host.cable, "master", bridge, "up")
    for command in (["link", "set", "lo", "up"], ["address", "add", f"{host.address}/24", "dev", "eth0"],
                    ["link", "set", "eth0", "up"]):  # fmt: skip
        _ip("-n", host.name, *command)


def _take_away(host: Host) -> None:
    host.kill()
    wait_until(lambda: not host.pids(), 10, f"the processes on {host.name} to end")
    _ip("netns", "delete", host.name)


def _start_relay(place: Sequence[str], listen: str, target: str, ports: Sequence[int]) -> subprocess.Popen[str]:
    command = [*place, sys.executable, "-m", _RELAY, listen, target, *map(str, ports)]
    relay = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert relay.stdout
    line = relay.stdout.readline()
    assert line == "ready\n", f"{command}: {line}"
    return relay


def _end(process: subprocess.Popen[str]) -> None:
    with process:  # closes its pipe and waits
        process.kill()


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout
