"""What is to be thought of a surrounding: facts in, findings with a remedy for each fault out. Pure functions.

`pipeline.doctor_probes` gathers the facts, each group in a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "fault"]
MAX_SKEW_S = 60.0
"""S3 refuses signatures that are 15 minutes off; well before that, times of logs and of leases mislead."""
LITTLE_SHM_BYTES = 256 << 20
"""A container has 64 MB of shared memory unless told otherwise, and Ray's object store then lives on disk."""
LITTLE_DISK_BYTES = 10 << 30
TOO_LITTLE_DISK_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    """What to do; "" where nothing has to be done, or `detail` says it."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """A file system."""

    path: str
    total: int
    """In bytes, as is `free`."""
    free: int


@dataclass(frozen=True, kw_only=True)
class StorageFacts:
    """Of an object that was written, read whole and in part, listed and deleted."""

    uri: str
    seconds: float
    skew_s: float | None
    """How far this machine's clock is ahead of the store's; None where the store does not tell its time."""


@dataclass(frozen=True, kw_only=True)
class MlflowFacts:
    """Of an MLflow server, and of an artifact that was stored, read and deleted through it."""

    uri: str
    client: str
    server: str
    """Its version; "" where it does not tell."""
    num_experiments: int
    artifacts: str
    """Where artifacts go."""
    seconds: float
    """Of the artifact's round trip."""


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """One node of a Ray cluster, as a task on it sees it."""

    name: str
    cpus: float
    gpus: float
    """As Ray counts them."""
    answers: bool
    """Whether it ran a task in time; where not, the rest is not known."""
    ray: str = ""
    python: str = ""
    torch: str = ""
    """Its version; "" where it is not installed."""
    cuda_devices: int | None = None
    """GPUs that torch sees in a task that asked for one; None where there are none, or all are busy."""
    spaces: tuple[Space, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RayFacts:
    """A Ray cluster, and the versions of this process, which joined it."""

    address: str
    ray: str
    python: str
    memory: int
    """Of all nodes, in bytes."""
    nodes: tuple[NodeFacts, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JobsFacts:
    """The Jobs API of a cluster."""

    url: str
    status: int
    """Of its answer to a request with the token, as HTTP has it."""
    ray: str
    """The cluster's version of Ray; "" where it does not tell."""
    client: str


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """This machine."""

    torch: str
    cuda_devices: int
    """GPUs that torch sees."""
    has_driver: bool
    """Whether there is a device of NVIDIA's driver."""
    spaces: tuple[Space, ...] = ()


def judge_storage(facts: StorageFacts) -> Iterator[Finding]:
    """The round trip worked, or there were no facts; and the clock."""
    yield ok("storage", f"{facts.uri}: put, get, ranged get, list and delete in {facts.seconds:.2f} s")
    if facts.skew_s is None:
        return
    if abs(facts.skew_s) > MAX_SKEW_S:
        way = "ahead of" if facts.skew_s > 0 else "behind"
        yield fault(
            "clock",
            f"this machine is {abs(facts.skew_s):.0f} s {way} the store",
            "set the clock, e.g. with chrony: S3 refuses requests that are 15 minutes off",
        )
    else:
        yield ok("clock", f"within {max(1.0, abs(facts.skew_s)):.0f} s of the store's")


def judge_mlflow(facts: MlflowFacts) -> Iterator[Finding]:
    """The server answers and stores artifacts; whether client and server are of one version."""
    yield ok("MLflow", f"{facts.uri}: {facts.num_experiments} experiments")
    yield ok("MLflow artifacts", f"{facts.artifacts}: put, list, get and delete in {facts.seconds:.2f} s")
    if not facts.server:
        return
    here, there = _release(facts.client), _release(facts.server)
    if here[:2] == there[:2]:
        yield ok("MLflow version", f"{facts.client} here, {facts.server} there")
    else:
        yield Finding(
            name="MLflow version",
            status="fault" if here[:1] != there[:1] else "warning",
            detail=f"{facts.client} here, {facts.server} there",
            remedy=f"pip install mlflow=={facts.server}, or bring the server to {facts.client}",
        )


def judge_jobs(facts: JobsFacts) -> Iterator[Finding]:
    """Whether the Jobs API takes the token."""
    if facts.status in (401, 403):
        yield fault(
            "Jobs API",
            f"{facts.url} refuses the token ({facts.status})",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the cluster's token",
        )
    elif facts.status != 200:
        yield fault("Jobs API", f"{facts.url} answers {facts.status}", "check RAY_API_SERVER_ADDRESS")
    elif facts.ray and facts.ray != facts.client:
        yield Finding(
            name="Jobs API",
            status="warning",
            detail=f"{facts.url}: Ray {facts.ray} there, {facts.client} here",
            remedy=f"pip install 'ray[default,train,tune]=={facts.ray}'",
        )
    else:
        yield ok("Jobs API", f"{facts.url} takes the token")


def judge_ray(facts: RayFacts) -> Iterator[Finding]:
    """The cluster, and each of its nodes."""
    cpus, gpus = (sum(getattr(node, kind) for node in facts.nodes) for kind in ("cpus", "gpus"))
    if cpus < 1:
        yield fault("Ray", f"{facts.address}: the cluster has no CPUs for tasks", "start a worker node")
    else:
        yield ok(
            "Ray",
            f"{facts.address}: {len(facts.nodes)} nodes, {cpus:.0f} CPUs, {gpus:.0f} GPUs, "
            f"{facts.memory / 2**30:.1f} GiB",
        )
    answering = [node for node in facts.nodes if node.answers]
    if len(answering) < len(facts.nodes):
        silent = ", ".join(node.name for node in facts.nodes if not node.answers)
        yield fault("Ray nodes", f"{silent}: ran no task in time", "see its raylet's log in the dashboard")
    yield from _judge_same("Ray version", facts.ray, {node.name: node.ray for node in answering})
    yield from _judge_same("Python version", facts.python, {node.name: node.python for node in answering}, parts=2)
    for node in answering:
        yield from _judge_gpus(node)
        for space in node.spaces:
            yield from judge_space(space, f" of {node.name}", quiet=True)


def _judge_same(name: str, here: str, there: Mapping[str, str], parts: int = 3) -> Iterator[Finding]:
    """Whether all nodes have the version `here`, of which `parts` numbers count."""
    other = {node: version for node, version in there.items() if _release(version)[:parts] != _release(here)[:parts]}
    if other:
        nodes = ", ".join(f"{version} on {node}" for node, version in other.items())
        yield fault(name, f"{here} here, {nodes}", "use one image, or one virtual environment, on all nodes")
    elif there:
        yield ok(name, f"{here} on all nodes")


def _judge_gpus(node: NodeFacts) -> Iterator[Finding]:
    if not node.gpus:
        return
    if not node.torch:
        yield fault("GPUs", f"{node.name}: torch is not installed", "install it there as constraints.txt has it")
    elif node.cuda_devices is None:
        yield Finding(
            name="GPUs", status="warning", detail=f"{node.name}: its {node.gpus:.0f} GPUs are busy: not looked at"
        )
    elif node.cuda_devices == 0:
        yield fault(
            "GPUs",
            f"{node.name}: Ray counts {node.gpus:.0f} GPUs, torch {node.torch} sees none",
            "install torch's CUDA build there, or a driver new enough for it",
        )
    else:
        yield ok("GPUs", f"{node.name}: {node.gpus:.0f}, and torch {node.torch} sees those that a task is given")


def judge_machine(facts: MachineFacts) -> Iterator[Finding]:
    """This machine's torch, GPUs and room."""
    if not facts.torch:
        yield fault("torch", "not installed", "pip install --constraint constraints.txt torch")
    elif facts.has_driver and not facts.cuda_devices:
        yield fault(
            "torch",
            f"this machine has an NVIDIA driver, and torch {facts.torch} sees no GPU",
            "install torch's CUDA build, or a driver new enough for it",
        )
    else:
        yield ok("torch", f"{facts.torch}, {facts.cuda_devices} GPUs here")
    for space in facts.spaces:
        yield from judge_space(space)


def judge_space(space: Space, whose: str = "", *, quiet: bool = False) -> Iterator[Finding]:
    """Whether there is room; with `quiet`, no word where there is."""
    name = "shared memory" if space.path == "/dev/shm" else "disk"
    detail = f"{space.path}{whose}: {space.free / 2**30:.1f} of {space.total / 2**30:.1f} GiB free"
    if name == "shared memory":
        if space.total < LITTLE_SHM_BYTES:
            yield Finding(
                name=name,
                status="warning",
                detail=f"{space.path}{whose}: only {space.total / 2**20:.0f} MiB",
                remedy="start the container with --shm-size 2g: Ray keeps its objects on disk otherwise",
            )
        elif not quiet:
            yield ok(name, detail)
    elif space.free < TOO_LITTLE_DISK_BYTES:
        yield fault(name, detail, "make room: Ray stops tasks on a disk that is full")
    elif space.free < LITTLE_DISK_BYTES:
        yield Finding(name=name, status="warning", detail=detail, remedy="make room")
    elif not quiet:
        yield ok(name, detail)


def judge_packages(installed: Mapping[str, str | None], pins: Mapping[str, str]) -> Finding:
    """Whether the packages that are needed are there, in the versions that were tested.

    `installed`: needed package -> its version, None where it is missing. `pins`: package -> version, by any spelling.
    """
    tested = {canonical(name): version for name, version in pins.items()}
    missing = sorted(name for name, version in installed.items() if version is None)
    if missing:
        return fault("packages", f"missing: {', '.join(missing)}", "pip install --constraint constraints.txt .")
    other = [
        f"{name} {version} (tested: {wanted})"
        for name, version in sorted(installed.items())
        if version and (wanted := tested.get(canonical(name))) and version.partition("+")[0] != wanted.partition("+")[0]
    ]
    if other:
        return Finding(
            name="packages",
            status="warning",
            detail=", ".join(other),
            remedy="pip install --constraint constraints.txt .",
        )
    known = sum(canonical(name) in tested for name in installed)
    return ok("packages", f"{known} of {len(installed)} in the versions of constraints.txt" if tested else
              f"{len(installed)} there; no constraints.txt to hold them against")  # fmt: skip


def judge_secret(name: str, path: str, mode: int | None) -> Finding:
    """Whether only its owner can read a file with secrets; `mode`: its permission bits, None for no such file."""
    if mode is None:
        return fault(name, f"{path}: not there", "run 'encnet stack up', or name the file with the cluster's token")
    if mode & 0o077:
        return fault(name, f"{path}: others may read it ({mode:04o})", f"chmod 600 {path}")
    return ok(name, f"{path} ({mode:04o})")


def canonical(name: str) -> str:
    """A package's name in the spelling that all tools share (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def has_fault(findings: Iterable[Finding]) -> bool:
    """Whether anything is at fault; warnings are not."""
    return any(finding.status == "fault" for finding in findings)


def ok(name: str, detail: str) -> Finding:
    """A finding that all is well."""
    return Finding(name=name, status="ok", detail=detail)


def fault(name: str, detail: str, remedy: str = "") -> Finding:
    """A finding of a fault."""
    return Finding(name=name, status="fault", detail=detail, remedy=remedy)


def _release(version: str) -> list[int]:
    """The numbers of a version: 2.13.0+cpu -> [2, 13, 0]."""
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]
