"""A Ray cluster over hosts of their own: host 1 is the head and runs the driver, the others do the work."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.drills.hosts import Host, Hosts, Way, made_hosts

GCS_PORT = 6380
START_TIMEOUT_S = 60.0
_NODE_ID = """
import sys, ray
ray.init(log_to_driver=False)
print(next(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == sys.argv[1]))
"""


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

    def way(self, setting: str) -> Way:
        """The way from the hosts to the service whose address that variable has."""
        return self.hosts.ways[_port(self.environ[setting])]

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

    def restart(self, host: Host) -> None:
        """Have a host join anew, whatever is left there."""
        host.lose_power()
        self.start_node(host)

    def drain(self, host: Host, deadline_s: int) -> None:
        """Tell the cluster that the host will be taken away, as clouds do with preemptible machines."""
        _run(
            self.head.command(
                f"{Path(sys.executable).parent}/ray",
                "drain-node",
                f"--address={self.head.address}:{GCS_PORT}",
                f"--node-id={self._node_id(host)}",
                "--reason=DRAIN_NODE_REASON_PREEMPTION",
                "--reason-message=a drill",
                f"--deadline-remaining-seconds={deadline_s}",
            ),
            self.environ,
        )

    def _node_id(self, host: Host) -> str:
        asked = self.head.command(sys.executable, "-c", _NODE_ID, host.address)
        return _run(asked, self.environ).splitlines()[-1]


def training_workers(host: Host) -> list[int]:
    """The pids of the training workers on a host."""
    return host.pids(lambda command_line: "RayTrainWorker" in command_line)


def host_of_rank_0(nodes: list[Host]) -> Host:
    """The one of them with the worker that writes the checkpoints."""

    def written(host: Host) -> int:
        counts = (Path(f"/proc/{pid}/io").read_text().split() for pid in training_workers(host))
        return sum(int(words[words.index("wchar:") + 1]) for words in counts)

    return max(nodes, key=written)


@contextmanager
def ray_hosts(num_nodes: int, stack: Mapping[str, str]) -> Iterator[RayHosts]:
    """A cluster of `num_nodes` hosts of one CPU each beside the head, which reach the store and MLflow of `stack`."""
    ports = [_port(stack[name]) for name in ("AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI")]
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


def _port(address: str) -> int:
    port = urlsplit(address).port
    assert port, address
    return port


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


def _run(command: list[str], environ: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, env=dict(environ), capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
