"""A real stack for the time of a measurement, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local import settings
from infra.local import stack as local_stack
from tests.conftest import stack_variables


@contextmanager
def running_stack(num_cpus: int) -> Iterator[None]:
    """Object store, MLflow and Ray with `num_cpus` CPUs, up and empty; os.environ holds their settings for as long."""
    # Under /tmp: unix sockets need a short path.
    home = Path(tempfile.mkdtemp(prefix="encnet-bench-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        for name in stack_variables(os.environ):
            patch.delenv(name)
        patch.setenv("ENCNET_HOME", str(home))
        try:
            local_stack.up(num_cpus=num_cpus)
            for name, value in settings.read(settings.environment_file()).items():
                patch.setenv(name, value)
            yield
        finally:
            local_stack.down(home, delete_data=True)
            shutil.rmtree(home, ignore_errors=True)
