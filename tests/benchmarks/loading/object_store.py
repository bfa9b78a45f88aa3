"""A real S3 server for the time of a measurement: the local stack's, without the rest of it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local import object_store, ports, processes
from infra.local.parts import PORTS, STOP_GRACE_S, Part
from infra.local.state import Folder


@contextmanager
def running_store() -> Iterator[dict[str, str]]:
    """The settings of a store that is up and empty; os.environ holds them as well, for as long."""
    # Under /tmp: unix sockets need a short path.
    home = Path(tempfile.mkdtemp(prefix="encnet-bench-", dir="/tmp"))
    folder = Folder(home)
    try:
        folder.create()
        object_store.make_keys(folder)
        chosen = ports.choose(PORTS["s3"])
        settings = object_store.settings(chosen, object_store.keys(folder))
        with _running(object_store.part(folder, chosen, os.environ), folder), pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            yield settings
        object_store.remove_sockets(chosen)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _running(part: Part, folder: Folder) -> Iterator[None]:
    mark, log = str(folder.root), folder.log("s3")
    process = processes.start(part.command, cwd=part.cwd, environ=part.environ, log=log, mark=mark)
    try:
        deadline = time.monotonic() + part.start_timeout_s
        while problem := part.ready():
            if time.monotonic() > deadline or not processes.is_alive(process):
                raise RuntimeError(
                    f"the object store does not come up: {problem}: {folder.log('s3').read_text()[-500:]}"
                )
            time.sleep(0.2)
        yield
    finally:
        processes.stop(process, mark, STOP_GRACE_S["s3"])
