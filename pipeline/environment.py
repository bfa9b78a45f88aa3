"""Environment variables that third parties read, set for as long as they must be."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_lock = threading.Lock()
_before: dict[str, str | None] = {}
"""What the variables were that are overridden now."""
_active: list[Mapping[str, str]] = []


@contextmanager
def overridden(values: Mapping[str, str]) -> Iterator[None]:
    """Put `values` into the process's environment while the block runs.

    Blocks of several threads may begin and end in any order: the one that began last counts, and after the last of them
    all is as before.
    """
    entry = dict(values)
    with _lock:
        for name in entry:
            _before.setdefault(name, os.environ.get(name))
        _active.append(entry)
        os.environ.update(entry)
    try:
        yield
    finally:
        with _lock:
            del _active[next(place for place, each in enumerate(_active) if each is entry)]
            for name in entry:
                _restore(name)


def _restore(name: str) -> None:
    rest = [each[name] for each in _active if name in each]
    value = rest[-1] if rest else _before.pop(name)
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
