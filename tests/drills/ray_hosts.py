"""A Ray cluster over hosts of their own: host 1 is the head and runs the driver, the others do the work."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.drills.hosts import Host, Hosts, made_hosts

GCS_PORT = 6380
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RayHosts:
    """A running cluster."""

    hosts: Hosts
    environ: Mapping[str, str]
    """Of whatever runs on the hosts: storage, tracking and the cluster's address are in it."""
    folder: Path

    @property
    def head(self) -> Host:
        return self.hosts.hosts[0]

    @property
    def nodes(self) -> list[Host]:
        """The hosts that work."""
        return self.hosts.hosts[1:]

    def start_node(self, host: Host, num_cpus: int = 1) -> None:
        """Have a host join the cluster."""
        is_head = host == self.head
        place = ["--head", f"--port={GCS_PORT}", "--include-dashboard=false", f"--temp-dir={self.folder}/ray"]
        _run(
            host.command(
                f"{Path(sys.executable).parent}/ray",
                "start",
                *(place if is_head else [f"--address={self.head.address}:{GCS_PORT}"]),
                f"--node-ip-address={host.address}",
                f"--num-cpus={num_cpus}",
                "--object-store-memory=100000000",
                "--disable-usage-stats",
                "--log-color=false",
            ),
            self.environ,
        )

    def lose_power(self, host: Host) -> None:
        """End all processes of the host's node, as when its power fails."""
        for pid in host.pids():
            if "tests.drills.relay" not in _command_line(pid):
                _kill(pid)

    def restart(self, host: Host) -> None:
        """Have the host join anew, whatever is left there."""
        self.lose_power(host)
        self.start_node(host)

    def kill_driver(self) -> None:
        """End what `encnet` runs on the head."""
        for pid in self.head.pids():
            if "workflows.cli" in _command_line(pid):
                _kill(pid)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except FileNotFoundError:
        return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def ray_hosts(num_nodes: int, stack: Mapping[str, str]) -> Iterator[RayHosts]:
    """A cluster of `num_nodes` hosts of one CPU each beside the head, which reach the store and MLflow of `stack`."""
    ports = [urlsplit(stack[name]).port or 0 for name in ("AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI")]
    # Under /tmp: unix sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="encnet-hosts-", dir="/tmp"))
    try:
        with made_hosts(num_nodes + 1, ports) as hosts:
            (folder / "token").write_text(secrets.token_hex(32))
            cluster = RayHosts(hosts, _environ(stack, hosts.hosts[0], folder), folder)
            for host in hosts.hosts:
                cluster.start_node(host, num_cpus=0 if host == cluster.head else 1)
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environ(stack: Mapping[str, str], head: Host, folder: Path) -> dict[str, str]:
    own = {
        name: value for name, value in {**os.environ, **stack}.items() if not name.startswith(("RAY_", "ENCNET_HOME"))
    }
    return {
        **own,
        "RAY_ADDRESS": f"{head.address}:{GCS_PORT}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else Gloo takes the loopback interface, which leads nowhere from here.
        "GLOO_SOCKET_IFNAME": "eth0",
    }


def _run(command: list[str], environ: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, env=dict(environ), capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
