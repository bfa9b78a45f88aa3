"""What a part of the stack is: how it is started, where it answers, and when it counts as up."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.local.errors import StackError
from infra.local.ports import HOST

Probe = Callable[[], str | None]
"""Returns None for a part that answers as it should, or else in a few words what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One server of the stack, planned but not started."""

    name: str
    """Short name: "s3", "mlflow" or "ray"; also that of its data folder and log."""
    title: str
    """What a person calls it."""
    address: str
    """Where it answers."""
    command: list[str]
    cwd: Path
    environ: dict[str, str]
    prepare: Callable[[], None] = lambda: None
    """Run before every start."""
    ready: Probe
    """Whether it does what it is for; may write. For `up`."""
    healthy: Probe
    """Whether it answers; only reads. For `status`."""
    start_timeout_s: float


PORTS: dict[str, tuple[str, ...]] = {
    "s3": ("s3", "s3_grpc", "filer", "filer_grpc", "master", "master_grpc", "volume", "volume_grpc"),
    "mlflow": ("http",),
    "ray": ("gcs", "dashboard", "client"),
}
"""Part -> the ports it is given. What else a part listens on it chooses free by itself, at every start."""

STOP_GRACE_S = {
    # weed waits 16 s for streams between its own servers to end; what it has acknowledged is written by then.
    "s3": 3.0,
    "mlflow": 10.0,
    "ray": 15.0,
}
"""Part -> how long it may take to stop by itself."""

TITLES = {"s3": "object store", "mlflow": "MLflow", "ray": "Ray"}
"""Part -> what a person calls it."""


def program(name: str, package: str) -> str:
    """Return the path of the program `name` installed beside this Python. Raises StackError if it is not there."""
    path = Path(sys.executable).parent / name
    if not os.access(path, os.X_OK):
        raise StackError(f"{path}: not installed: run `pip install {package}` with this Python")
    return str(path)


def base_environ(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return `environ` without what would lead a part away from the stack: other storage, tracking, cluster, run.

    Ray's tuning variables are kept. This Python's programs come first in PATH, since jobs call them by name.
    """
    leading_away = ("AWS_", "MLFLOW_", "RAY_ADDRESS", "RAY_API_", "RAY_AUTH_", "RAY_JOB", "RAY_RAYLET", "WEED_")
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(leading_away) or name in ("AWS_CA_BUNDLE", "AWS_DEFAULT_REGION")
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)])
    return {**kept, "PATH": path, "ENCNET_HOME": str(home), "DO_NOT_TRACK": "true"}


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Return status and body of a GET from a port of this machine, never through a proxy.

    Raises OSError or http.client.HTTPException if nobody answers, or not in HTTP.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def http_problem(port: int, path: str, headers: Mapping[str, str] | None = None) -> str | None:
    """Return None if a GET is answered with 200, or else what happened instead."""
    try:
        status, _ = get(port, path, headers)
    except (OSError, http.client.HTTPException) as error:
        return f"http://{HOST}:{port}{path} does not answer ({type(error).__name__})"
    return None if status == 200 else f"http://{HOST}:{port}{path} answers {status}"
