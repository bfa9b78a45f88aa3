"""What all tests share: a stack of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.running_stack import RunningStack, running_stack

if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores, as do those that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """A real stack, up for the whole session, with its settings in os.environ."""
    with running_stack(max(4, os.cpu_count() or 1)) as running:
        yield running
