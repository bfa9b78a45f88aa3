"""Going on with a run: its stored configuration, and what may differ when it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.config import RunConfig, flat
from pipeline.errors import InputError, did_you_mean
from pipeline.storage import ObjectNotFound, Store, open_store

CONFIG = "config.json"
FREE = (
    "workers.",
    "checkpoint.",
    "data.uri",
    "data.threads",
    "data.memory_bytes",
    "data.cache_dir",
    "data.cache_bytes",
    "data.max_bad_samples",
    "validation.batch_size",
    "validation.pictures",
    "validation.where",
    "registered_model",
)
"""Fields, or sections with a dot at the end, that do not change what a run learns: where it runs and what it keeps."""


def runs_uri(storage: str) -> str:
    """Where the runs are on a storage."""
    return f"{storage.rstrip('/')}/runs"


def run_store(storage: str, name: str) -> Store:
    """What is kept of the run called `name`: its configuration, events and checkpoints."""
    return open_store(f"{runs_uri(storage)}/{name}")


def store_config(config: RunConfig) -> None:
    """Keep a run's configuration beside its checkpoints."""
    run_store(config.storage, config.name).write(CONFIG, json.dumps(config.to_dict(), indent=1).encode())


def is_used(storage: str, name: str) -> bool:
    """Whether there is a run of that name already."""
    return run_store(storage, name).exists(CONFIG)


def stored_config(storage: str, name: str) -> RunConfig:
    """The configuration that a run was started with. Raises InputError where there is no such run."""
    try:
        return RunConfig.from_dict(json.loads(run_store(storage, name).read(CONFIG)))
    except ObjectNotFound:
        known = {key.split("/")[0] for key in open_store(runs_uri(storage)).list() if key.endswith(f"/{CONFIG}")}
        remedy = did_you_mean(name, known) if known else "no run has been started there"
        raise InputError(f"resume: no run {name!r} in {runs_uri(storage)}: {remedy}") from None


def resumed_config(stored: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """`stored` with `changes` (by dotted name). Raises InputError for those that would make it another run."""
    asked = stored.override(changes)
    was = flat(stored.to_dict())
    for path, value in flat(asked.to_dict()).items():
        if not path.startswith(FREE) and value != was[path]:
            raise InputError(
                f"{path}: {value!r}, but the run {stored.name!r} was started with {was[path]!r}: "
                "leave the option out to go on with it, or start another run with --name"
            )
    return asked
