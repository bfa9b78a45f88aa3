"""The Ray head: a cluster of one node with its dashboard and Jobs API, behind a token.

Its environment holds the settings of the whole stack. Workers and jobs inherit it, so that no credential has to
travel in a job's runtime environment, where the dashboard would show it.
"""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil

from infra.local.errors import StackInputError
from infra.local.parts import TITLES, Part, base_environ, get, http_problem, program
from infra.local.ports import HOST
from infra.local.state import Folder, write_private

OBJECT_STORE_BYTES = 512 * 2**20


def token_file(folder: Folder) -> Path:
    """Return where the token is kept."""
    return folder.part("ray") / "auth_token"


def make_token(folder: Folder) -> None:
    """Generate the cluster's token, unless there is one."""
    if not token_file(folder).exists():
        write_private(token_file(folder), secrets.token_hex(32))


def token(folder: Folder) -> str:
    """Return the cluster's token. Raises StackInputError if its file is missing or empty."""
    path = token_file(folder)
    value = path.read_text().strip() if path.exists() else ""
    if not value:
        raise StackInputError(
            f"{path}: missing or empty: remove it and run `encnet stack down`, then `up`; a new token is made"
        )
    return value


def settings(folder: Folder, ports: Mapping[str, int]) -> dict[str, str]:
    """Return what a driver or a client of the cluster has to have in its environment."""
    return {
        "RAY_ADDRESS": f"{HOST}:{ports['gcs']}",
        "RAY_API_SERVER_ADDRESS": f"http://{HOST}:{ports['dashboard']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file(folder)),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Despite its name it works on Linux too, and is the only way to keep Ray on the loopback interface: without
        # it Ray replaces 127.0.0.1 by the machine's own address, in the head as in drivers, and listens to the network.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def part(
    folder: Folder,
    ports: Mapping[str, int],
    sessions: Path,
    stack_settings: Mapping[str, str],
    num_cpus: int,
    environ: Mapping[str, str],
) -> Part:
    """Return the Ray head as a part of the stack in `folder`: `num_cpus` CPUs, its sessions below `sessions`."""
    bearer = {"Authorization": f"Bearer {token(folder)}"}

    def healthy() -> str | None:
        return http_problem(ports["dashboard"], "/api/jobs/", bearer) or _node_problem(ports["dashboard"], bearer)

    return Part(
        name="ray",
        title=TITLES["ray"],
        address=f"http://{HOST}:{ports['dashboard']}",
        command=_command(ports, sessions, num_cpus),
        cwd=folder.part("ray"),
        environ={
            **base_environ(environ, folder.home),
            **stack_settings,
            "GLOO_SOCKET_IFNAME": _loopback_interface(),
            # Metrics ports that would otherwise be the same for every cluster on this machine.
            "AUTOSCALER_METRIC_PORT": "0",
            "DASHBOARD_METRIC_PORT": "0",
            # Nobody takes over the tasks of the only node, so there is little to wait for when stopping.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2",
            # Else workers, renaming themselves, overwrite the environment by which a part's processes are known.
            "SPT_NOENV": "1",
        },
        prepare=lambda: _delete_old_sessions(sessions),
        ready=healthy,
        healthy=healthy,
        start_timeout_s=120.0,
    )


def _command(ports: Mapping[str, int], sessions: Path, num_cpus: int) -> list[str]:
    return [
        program("ray", "'ray[default,train,tune]'"),
        "start",
        "--head",
        "--block",
        f"--node-ip-address={HOST}",
        f"--port={ports['gcs']}",
        f"--dashboard-host={HOST}",
        f"--dashboard-port={ports['dashboard']}",
        f"--ray-client-server-port={ports['client']}",
        "--dashboard-agent-listen-port=0",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--temp-dir={sessions}",
        f"--num-cpus={num_cpus}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--disable-usage-stats",
        "--log-style=record",
        "--log-color=false",
    ]


def _node_problem(port: int, bearer: Mapping[str, str]) -> str | None:
    """Return None once the node that runs tasks has joined: the dashboard answers before it has."""
    try:
        _, body = get(port, "/nodes?view=summary", bearer)
        nodes = json.loads(body)["data"]["summary"]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        return f"the dashboard does not list its nodes ({type(error).__name__})"
    alive = [node for node in nodes if node.get("raylet", {}).get("state") == "ALIVE"]
    return None if alive else "no node has joined the cluster"


def _loopback_interface() -> str:
    """Return the name of the interface that has the loopback address: `lo` on Linux, `lo0` on macOS."""
    interfaces = psutil.net_if_addrs().items()
    return next(name for name, addresses in interfaces if any(entry.address == HOST for entry in addresses))


def _delete_old_sessions(sessions: Path) -> None:
    """Delete the logs of all earlier sessions but the last: they would pile up for ever."""
    folders = [path for path in sessions.glob("session_*") if path.is_dir() and not path.is_symlink()]
    for path in sorted(folders)[:-1]:
        shutil.rmtree(path, ignore_errors=True)
