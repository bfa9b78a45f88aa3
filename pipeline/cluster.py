"""Joining the Ray cluster, its view of storage, and progress that crosses processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray

from pipeline.errors import InputError, first_line
from pipeline.progress import ProgressBoard, ProgressView


def connect_ray() -> None:
    """Join the cluster at $RAY_ADDRESS. Raises InputError where none is named or it does not answer."""
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        raise InputError("RAY_ADDRESS: not set: run 'encnet stack up', or name your cluster in it")
    # It logs an error line at every start (ray#53727), and nothing here acts on its notices.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    try:
        ray.init(address=address, logging_level=logging.WARNING)
    except (ConnectionError, TimeoutError, RuntimeError, ray.exceptions.RaySystemError) as error:
        raise InputError(
            f"RAY_ADDRESS: {address!r} does not answer: run 'encnet stack up', or check the address and the token "
            f"({first_line(error)})"
        ) from None


def split_storage(uri: str) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """A storage URI as Ray wants it: (file system, path). Credentials come from the environment of each process."""
    if not uri.startswith("s3://"):
        return None, str(Path(uri).resolve())
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        return pyarrow.fs.S3FileSystem(), uri.removeprefix("s3://")
    scheme, _, host = endpoint.rpartition("://")
    return pyarrow.fs.S3FileSystem(endpoint_override=host, scheme=scheme or "https"), uri.removeprefix("s3://")


@contextmanager
def progress(title: str, unit: str) -> Iterator[Any]:
    """The handle of a progress board that is shown on this terminal."""
    board: Any = ray.remote(ProgressBoard).options(num_cpus=0).remote()
    try:
        with ProgressView(title, lambda: dict(ray.get(board.read.remote())), unit):
            yield board
    finally:
        ray.kill(board)
