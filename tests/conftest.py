"""What all tests share: a stack of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
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


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """A real stack, up for the whole session, with its settings in os.environ.

    It has a state folder and ports of its own, so that it does not meet a stack of the user's.
    """
    # Under /tmp, not pytest's own folder: unix sockets need a short path.
    home = Path(tempfile.mkdtemp(prefix="encnet-test-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        for name in stack_variables(os.environ):
            patch.delenv(name)
        patch.setenv("ENCNET_HOME", str(home))
        try:
            local_stack.up(num_cpus=max(4, os.cpu_count() or 1))
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
