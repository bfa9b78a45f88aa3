"""A real stack of its own, for the time of a test session or of a measurement."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.local import settings
from infra.local import stack as local_stack


@dataclass(frozen=True)
class RunningStack:
    """A stack that is up, and the settings to reach it."""

    home: Path
    environment: Mapping[str, str]


@contextmanager
def running_stack(num_cpus: int) -> Iterator[RunningStack]:
    """Object store, MLflow and Ray with `num_cpus` CPUs, up and empty; os.environ holds their settings for as long.

    It has a state folder and ports of its own, so that it does not meet a stack of the user's.
    """
    # Under /tmp, not pytest's own folder: unix sockets need a short path.
    home = Path(tempfile.mkdtemp(prefix="encnet-test-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        for name in stack_variables(os.environ):
            patch.delenv(name)
        patch.setenv("ENCNET_HOME", str(home))
        try:
            local_stack.up(num_cpus=num_cpus)
            environment = settings.read(settings.environment_file())
            for name, value in environment.items():
                patch.setenv(name, value)
            yield RunningStack(home=home, environment=environment)
        finally:
            local_stack.down(home, delete_data=True)
            shutil.rmtree(home, ignore_errors=True)


def stack_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the variables of `environ` that lead to somebody else's storage, tracking or cluster."""
    names = {name for group in settings.GROUPS for name in (*group.own, *group.extra)}
    return sorted(names & set(environ))
