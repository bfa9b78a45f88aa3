"""Ports on this machine: choosing free ones, and saying who holds one that is not."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

import psutil

from infra.local.errors import StackError

HOST = "127.0.0.1"

# Below the range from which Linux takes the near ends of outgoing connections (32768 and up), so that a port stays
# free while its part is down.
PORT_RANGE = range(20000, 32000)


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of this machine now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections still winding down do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose(names: Iterable[str], taken: Iterable[int] = ()) -> dict[str, int]:
    """Return a free port for each of `names`, none of them among `taken`.

    Ports are drawn at random, so that stacks started at the same moment do not choose the same ones.
    Raises StackError if there are not enough free ports.
    """
    avoid = set(taken)
    candidates = (port for port in random.SystemRandom().sample(PORT_RANGE, len(PORT_RANGE)) if port not in avoid)
    chosen: dict[str, int] = {}
    for name in names:
        port = next((port for port in candidates if is_free(port)), None)
        if port is None:
            raise StackError(f"no free port is left among {PORT_RANGE.start}..{PORT_RANGE.stop - 1} of {HOST}")
        chosen[name] = port
    return chosen


def holder(port: int) -> str:
    """Return who listens on `port`, as far as the system tells us: "pid 123 (nginx)" or "another program"."""
    try:
        for connection in psutil.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        # Only its owner or root may know on some systems; that it is taken we know anyway.
        pass
    return "another program"
