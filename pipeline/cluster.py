"""Joining the Ray cluster, its view of storage, and boards that cross processes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from pipeline.errors import InputError, first_line
from pipeline.run_board import Pulse, RunBoard, silent_pulse
from pipeline.sweep_board import SweepBoard
from pipeline.world import World

_logger = logging.getLogger(__name__)
ANSWER_WITHIN_S = 10.0
"""Of an actor of the driver: after that a worker tries again, and the driver shows what it knew."""

TAKEOVER_S = 30.0
"""Who goes on with something waits so long for the process that drove it: it may have died, and not be missed yet."""

S3_ATTEMPTS = 12
"""The pauses between them begin at 50 ms and double: 100 s in all."""


def connect_ray(*, shows_workers: bool = True) -> None:
    """Join the cluster at $RAY_ADDRESS; `shows_workers`: what its processes print comes to this one's terminal.

    Raises InputError where none is named or it does not answer.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        raise InputError("RAY_ADDRESS: not set: run 'encnet stack up', or name your cluster in it")
    try:
        _require_listener(address)
        with _own_sigterm():
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=shows_workers)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        raise InputError(
            f"RAY_ADDRESS: {address!r} does not answer: run 'encnet stack up', or check the address and the token "
            f"({first_line(error)})"
        ) from None


def _require_listener(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray would ask there for more than a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_WITHIN_S).close()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep a handler of SIGTERM that is in place: Ray puts its own there, which ends the process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def live_nodes() -> set[str]:
    """The ids of the cluster's nodes that are alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


class PatientS3(pyarrow.fs.S3FileSystem):
    """S3 as Ray has it, for its own books, that is asked again for long: Ray Train ends a run that can't write them.

    Its own copies, in other processes, forget how often to ask again; these do not.
    """

    def __init__(self, settings: dict[str, str]) -> None:
        super().__init__(retry_strategy=pyarrow.fs.AwsDefaultS3RetryStrategy(max_attempts=S3_ATTEMPTS), **settings)
        self._settings = settings

    def __reduce__(self) -> tuple[type, tuple[dict[str, str]]]:
        return PatientS3, (self._settings,)


def split_storage(uri: str) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """A storage URI as Ray wants it: (file system, path). Credentials come from the environment of each process."""
    if not uri.startswith("s3://"):
        return None, str(Path(uri).resolve())
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        return PatientS3({}), uri.removeprefix("s3://")
    scheme, _, host = endpoint.rpartition("://")
    return PatientS3({"endpoint_override": host, "scheme": scheme or "https"}), uri.removeprefix("s3://")


def run_board(storage: str, name: str, *, resume: bool) -> AbstractContextManager[Any]:
    """The handle of the board of a run. Raises InputError where another process of this cluster drives that run."""
    return _sole_actor(RunBoard, f"run {name!r} in {storage}", TAKEOVER_S if resume else 0.0)


def sweep_board(storage: str, name: str, *, resume: bool) -> AbstractContextManager[Any]:
    """The handle of the board of a sweep. Raises InputError where another process of this cluster drives it."""
    return _sole_actor(SweepBoard, f"sweep {name!r} in {storage}", TAKEOVER_S if resume else 0.0)


def open_pulse(board: Any, world: World) -> Pulse:
    """The sign of life of this worker on the run's board; None is no board."""
    if board is None:
        return Pulse(silent_pulse)
    board.join.remote(world.rank, world.size, ray.get_runtime_context().get_node_id(), os.getpid())

    def tell(step: int, phase: str) -> str:
        try:
            return str(ray.get(board.beat.remote(world.rank, step, phase), timeout=ANSWER_WITHIN_S))
        except ray.exceptions.RayError as error:
            _logger.warning("rank %d: the run's board does not answer: %s", world.rank, first_line(error))
            return ""

    return Pulse(tell)


@contextmanager
def _sole_actor(kind: type, what: str, patience_s: float) -> Iterator[Any]:
    """The only actor of `what` on the cluster, on this node, so that it does not go with another one; ended with the
    block, and with this process. One that is there already is waited for."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    place: Any = ray.remote(kind).options(num_cpus=0, scheduling_strategy=here, name=what, namespace="encnet")
    retrying = Retrying(
        retry=retry_if_exception_type(ray.exceptions.ActorAlreadyExistsError),
        wait=wait_fixed(1.0),
        stop=stop_after_delay(patience_s),
        reraise=True,
    )
    try:
        actor = retrying(place.remote)
    except ray.exceptions.ActorAlreadyExistsError:
        raise InputError(
            f"name: {what} is under way: another process of this cluster drives it: wait for its end, or stop it "
            "('encnet jobs list' shows jobs)"
        ) from None
    try:
        yield actor
    finally:
        ray.kill(actor)
