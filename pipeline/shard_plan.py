"""Which sample goes into which shard: known before the first is written, and the same whoever writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import InputError
from pipeline.shards import INDEX_NAME, Sample, shard_key
from pipeline.storage import Store

SAMPLES_PER_SHARD = 1000
SHARD_BYTES = 64 << 20
FORMAT = 1
"""Changes when the same samples come to give other shards."""


def plan_shards(count: int, samples_per_shard: int) -> list[range]:
    """The samples of each shard: `samples_per_shard` of them, but for what is left for the last."""
    return [range(count)[first : first + samples_per_shard] for first in range(0, count, samples_per_shard)]


def fitting_samples(count: int, num_bytes: int | None) -> int:
    """How many samples of a split make shards of about 64 MiB, at most 1000.

    `num_bytes`: of all of the split's images; None where that is not known.
    """
    if not num_bytes:
        return SAMPLES_PER_SHARD
    return max(1, min(SAMPLES_PER_SHARD, SHARD_BYTES * count // num_bytes))


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """A shard to write, and all that it takes: a value that can be sent to any machine."""

    store: Store
    split: str
    number: int
    samples: Sequence[Sample] = field(repr=False)
    """Of this shard alone."""
    num_classes: int
    identity: str
    """sha256 (hex) of what the shard's bytes depend on; empty where that is not known, and nothing can be resumed."""

    @property
    def name(self) -> str:
        """As the split's index names it."""
        return f"{self.number:06d}.tar"

    @property
    def key(self) -> str:
        """The store's key of the shard."""
        return shard_key(self.split, self.name)

    @property
    def note_key(self) -> str:
        """The store's key of the note that the shard is finished."""
        return f"{self.split}/{self.number:06d}.done.json"


def plan_tasks(
    store: Store,
    splits: Mapping[str, Sequence[Sample]],
    num_classes: int,
    samples_per_shard: int | Mapping[str, int],
    source: Mapping[str, Any],
) -> list[ShardTask]:
    """All shards of the splits, in order; an empty `source` identifies no samples. InputError for an empty split."""
    tasks = []
    for split, samples in splits.items():
        if not len(samples):
            raise InputError(f"split {split!r}: holds no samples: give it some, or leave it out")
        size = samples_per_shard if isinstance(samples_per_shard, int) else samples_per_shard[split]
        for number, places in enumerate(plan_shards(len(samples), size)):
            what = [FORMAT, dict(source), num_classes, split, places.start, places.stop]
            identity = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest() if source else ""
            task = ShardTask(
                store=store,
                split=split,
                number=number,
                samples=samples[places.start : places.stop],
                num_classes=num_classes,
                identity=identity,
            )
            tasks.append(task)
    return tasks


def planned_keys(tasks: Sequence[ShardTask]) -> set[str]:
    """The store's keys that the tasks' splits will be made of, with the notes on what is finished."""
    return {key for task in tasks for key in (task.key, task.note_key, f"{task.split}/{INDEX_NAME}")}
