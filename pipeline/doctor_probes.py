"""The probes of `encnet doctor`: each gathers facts in a process of its own, which ends with one JSON object.

Clients of S3, MLflow and Ray may wait for minutes, some of them where no signal of Python's reaches: a process can be
ended all the same, and what one of them does to itself disturbs no other.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from pipeline.doctor import JobsFacts, MachineFacts, MlflowFacts, NodeFacts, RayFacts, Space, StorageFacts
from pipeline.errors import InputError, PipelineError, first_line

_PROBE_BYTES = 1 << 16
_NODE_ANSWERS_WITHIN_S = 10.0
_HTTP_TIMEOUT_S = 5.0
TOKEN_FILE = "~/.ray/auth_token"
"""Where Ray looks for a token when no variable names it."""


class ProbeFault(PipelineError):
    """What a probe met, in one line."""


def probe_storage() -> StorageFacts:
    """Write, read, list and delete an object where runs are kept."""
    from pipeline.preconditions import find_storage
    from pipeline.storage import open_store

    store = open_store(find_storage(""))
    key, data = f".doctor-{secrets.token_hex(8)}", secrets.token_bytes(_PROBE_BYTES)
    began = time.monotonic()
    store.write(key, data)
    try:
        if store.read(key) != data:
            raise ProbeFault(f"{store.uri(key)}: get: not the bytes that were put")
        if store.read(key, 1000, 500) != data[1000:1500]:
            raise ProbeFault(f"{store.uri(key)}: ranged get: not the bytes that were asked for")
        if key not in store.list(key):
            raise ProbeFault(f"{store.uri(key)}: list: does not show what was put")
    finally:
        store.delete(key)
    if store.exists(key):
        raise ProbeFault(f"{store.uri(key)}: delete: it is still there")
    seconds = time.monotonic() - began
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"
    skew_s = _clock_skew(endpoint) if store.uri().startswith("s3://") else None
    return StorageFacts(uri=store.uri(), seconds=seconds, skew_s=skew_s)


def probe_mlflow() -> MlflowFacts:
    """List experiments, and store, list, read and delete an artifact beside those of runs."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    from pipeline import tracking

    client = tracking.connect()
    try:
        experiments = client.search_experiments(max_results=1000)
        newest = max(experiments, key=lambda one: one.last_update_time or 0)
        folder, data = f".doctor-{secrets.token_hex(8)}", secrets.token_hex(1000)
        artifacts = get_artifact_repository(f"{str(newest.artifact_location).rstrip('/')}/{folder}")
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "probe.txt").write_text(data)
            artifacts.log_artifact(str(Path(name) / "probe.txt"))
            try:
                listed = [item.path for item in artifacts.list_artifacts()]
                fetched = Path(artifacts.download_artifacts("probe.txt", name + "/"))
                if listed != ["probe.txt"] or fetched.read_text() != data:
                    raise ProbeFault(f"{newest.artifact_location}: an artifact is not what was stored")
            finally:
                artifacts.delete_artifacts("probe.txt")
        seconds = time.monotonic() - began
    except (MlflowException, OSError) as error:
        raise tracking.explain(error, "the artifact's round trip") from error
    return MlflowFacts(
        uri=client.tracking_uri,
        client=mlflow.__version__,
        server=_mlflow_version(client.tracking_uri),
        num_experiments=len(experiments),
        artifacts=str(newest.artifact_location),
        seconds=seconds,
    )


def _mlflow_version(uri: str) -> str:
    """The version that a server tells; "" where it does not."""
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    headers = {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"} if user else {}
    status, _, body = _get(f"{uri.rstrip('/')}/version", headers)
    return body.decode(errors="replace").strip()[:40] if status == 200 else ""


def probe_jobs() -> JobsFacts:
    """Ask the Jobs API, with the token, for its version."""
    import ray

    url = os.environ["RAY_API_SERVER_ADDRESS"].rstrip("/")
    token = ray_token()
    status, _, body = _get(f"{url}/api/version", {"Authorization": f"Bearer {token}"} if token else {})
    if not status:
        raise ProbeFault(f"{url} does not answer: start the cluster, or check RAY_API_SERVER_ADDRESS")
    known: dict[str, str] = {}
    if status == 200:
        with suppress(ValueError):
            known = json.loads(body)
    return JobsFacts(url=url, status=status, ray=str(known.get("ray_version", "")), client=ray.__version__)


def ray_token() -> str:
    """The token that Ray would send; "" for none."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    return path.read_text().strip() if path.is_file() else ""


def probe_ray() -> RayFacts:
    """Join the cluster and run a task on each node, and one with a GPU on each node that has any."""
    import ray

    from pipeline.cluster import connect_ray

    try:
        connect_ray()
    except InputError as error:
        if "Version mismatch" in str(error.__context__):  # of which only the lines after the first say what differs
            raise ProbeFault(" ".join(str(error.__context__).split())) from None
        raise
    nodes = [node for node in ray.nodes() if node["Alive"]]
    seen = _on_each(nodes, num_gpus=0, work=look_at_node)
    with_gpus = [node for node in nodes if node["Resources"].get("GPU", 0)]
    cuda = _on_each(with_gpus, num_gpus=1, work=count_cuda_devices)
    return RayFacts(
        address=os.environ["RAY_ADDRESS"],
        ray=ray.__version__,
        python=platform.python_version(),
        memory=int(ray.cluster_resources().get("memory", 0)),
        nodes=tuple(_node_facts(node, seen.get(node["NodeID"]), cuda.get(node["NodeID"])) for node in nodes),
    )


def _node_facts(node: Mapping[str, Any], seen: Mapping[str, Any] | None, cuda_devices: int | None) -> NodeFacts:
    """A node as Ray lists it, with what `look_at_node` and `count_cuda_devices` gave there, None where they did not."""
    resources = node["Resources"]
    facts = NodeFacts(
        name=node["NodeName"], cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0), answers=seen is not None
    )
    if seen is None:
        return facts
    values = {**seen, "spaces": tuple(Space(**space) for space in seen["spaces"])}
    return replace(facts, **values, cuda_devices=cuda_devices)


def _on_each(nodes: Sequence[dict[str, Any]], num_gpus: int, work: Callable[[], Any]) -> dict[str, Any]:
    """Node id -> what `work` gives there, of the nodes that were free to do it in time."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    task: Any = ray.remote(work)
    asked = {
        task.options(num_cpus=0, num_gpus=num_gpus, scheduling_strategy=On(node["NodeID"], soft=False)).remote(): node
        for node in nodes
    }
    if not asked:
        return {}
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_NODE_ANSWERS_WITHIN_S)
    for reference in late:
        ray.cancel(reference)
    return {asked[reference]["NodeID"]: ray.get(reference) for reference in done}


def look_at_node() -> dict[str, Any]:
    """`NodeFacts` of the node that this runs on, without what Ray says of it."""
    versions = {}
    for package in ("ray", "torch"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {**versions, "python": platform.python_version(), "spaces": spaces()}


def count_cuda_devices() -> int:
    """The GPUs on which torch can work in this process."""
    try:
        import torch

        return sum(bool(torch.ones(1, device=f"cuda:{place}").item()) for place in range(torch.cuda.device_count()))
    except (ImportError, RuntimeError):  # of a driver that is too old, or a GPU that is broken
        return 0


def probe_machine() -> MachineFacts:
    """Look at this machine."""
    version, cuda_devices = "", 0
    with suppress(ImportError):
        import torch

        version, cuda_devices = torch.__version__, torch.cuda.device_count()
    return MachineFacts(
        torch=version,
        cuda_devices=cuda_devices,
        has_driver=Path("/proc/driver/nvidia/version").exists(),
        spaces=tuple(Space(**space) for space in spaces()),
    )


def spaces() -> list[dict[str, Any]]:
    """The file systems that work needs room on, as plain values: of temporary files, and the shared memory."""
    found = []
    for path in (tempfile.gettempdir(), "/dev/shm"):
        if Path(path).is_dir():
            usage = shutil.disk_usage(path)
            found.append({"path": path, "total": usage.total, "free": usage.free})
    return found


def _clock_skew(endpoint: str) -> float | None:
    """How far this machine's clock is ahead of a server's, in seconds, by the date that HTTP servers tell."""
    before = time.time()
    _, headers, _ = _get(endpoint, method="HEAD")
    told = headers.get("Date", "")
    with suppress(ValueError):
        # A server tells whole seconds, cut off.
        return (before + time.time()) / 2 - (parsedate_to_datetime(told).timestamp() + 0.5) if told else None
    return None


def _get(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, Any, bytes]:
    """Status, headers and body of an answer; (0, {}, b"") for none."""
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, b""
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}, b""


PROBES: dict[str, Callable[[], Any]] = {
    "storage": probe_storage,
    "mlflow": probe_mlflow,
    "jobs": probe_jobs,
    "ray": probe_ray,
    "machine": probe_machine,
}
"""Name -> what gathers the facts of that name."""
_FACTS: dict[str, Callable[..., Any]] = {
    "storage": StorageFacts,
    "mlflow": MlflowFacts,
    "jobs": JobsFacts,
    "ray": RayFacts,
    "machine": MachineFacts,
}


def gather(names: Sequence[str], timeout_s: float) -> Iterator[tuple[str, Any]]:
    """Run the probes, all at once, and give each one's facts, or the line of text of a fault instead, in order.

    What takes longer than `timeout_s` is ended.
    """
    processes = {name: _start(name) for name in names}
    deadline = time.monotonic() + timeout_s
    try:
        for name, process in processes.items():
            yield name, _result(name, process, deadline, timeout_s)
    finally:
        for process in processes.values():
            _end(process)


def _start(name: str) -> subprocess.Popen[str]:
    """A probe of this code, whatever packages lie in the folder that the user is in."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline.doctor_probes", name],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _result(name: str, process: subprocess.Popen[str], deadline: float, timeout_s: float) -> Any:
    try:
        out, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:.0f} s"
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if not lines:
        return f"the probe ended with exit code {process.returncode} and no result"
    told = json.loads(lines[-1])
    return told["fault"] if "fault" in told else facts_of(name, told)


def facts_of(name: str, told: dict[str, Any]) -> Any:
    """The facts that a probe printed."""
    if "spaces" in told:
        told = {**told, "spaces": tuple(Space(**space) for space in told["spaces"])}
    if "nodes" in told:
        nodes = ({**node, "spaces": tuple(Space(**space) for space in node["spaces"])} for node in told["nodes"])
        told = {**told, "nodes": tuple(NodeFacts(**node) for node in nodes)}
    return _FACTS[name](**told)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout:
        process.stdout.close()


def main(name: str) -> int:
    """Run one probe; the last line on stdout is one JSON object: its facts, or `fault` in one line of text."""
    try:
        told = asdict(PROBES[name]())
    except (InputError, PipelineError) as error:
        told = {"fault": " ".join(str(error).split())}
    except Exception as error:  # noqa: BLE001  # a broken client is what is looked for
        told = {"fault": f"{type(error).__name__}: {first_line(error)}"}
    print(json.dumps(told), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
