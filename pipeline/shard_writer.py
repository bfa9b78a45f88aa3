"""Samples -> WebDataset tar shards, an index per split, and `dataset.json`: the same samples give the same bytes.

A shard is a task of its own, so that any runner can write them. `dataset.json` goes first when a data set is
overwritten and comes last: what is half-written is no data set to any reader, and the next run goes on from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.dataset_index import join_split
from pipeline.errors import InputError, StorageError
from pipeline.shard_index import ShardContents
from pipeline.shard_plan import SAMPLES_PER_SHARD, ShardTask, plan_tasks, planned_keys
from pipeline.shard_runner import Runner, on_threads
from pipeline.shard_task import DoneShard, check_shard, twice, write_shard
from pipeline.shards import DATASET_KEY, INDEX_NAME, DatasetInfo, Sample, SplitInfo, read_dataset
from pipeline.storage import Store

Done = Callable[[DoneShard], object]
"""Told of each shard as it is done."""
_OURS = re.compile(rf"[^/]+/(\d{{6,}}\.(tar|done\.json)|{re.escape(INDEX_NAME)})")


def write_dataset(
    store: Store,
    splits: Mapping[str, Sequence[Sample]],
    *,
    name: str,
    version: str,
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...],
    source: Mapping[str, Any] | None = None,
    samples_per_shard: int | Mapping[str, int] = SAMPLES_PER_SHARD,
    runner: Runner = on_threads,
    done: Done = lambda shard: None,
) -> DatasetInfo:
    """Write the splits below a store's root, replacing any data set there, and return what `dataset.json` says.

    `source` identifies the samples: finished shards of an interrupted run with an equal one are kept. Without it all
    are written. Raises InputError as `write_shard` does, for a key that two shards hold, and for a split without
    samples; what the data set there was is lost by then, which `check_samples` beforehand prevents.
    """
    tasks = plan_tasks(store, splits, len(classes), samples_per_shard, source or {})
    store.ensure_bucket()
    replaced = _stored_splits(store) | set(splits)
    store.delete(DATASET_KEY)
    _delete_ours(store, replaced, kept=planned_keys(tasks))
    shards = [shard.contents for shard in runner(write_shard, tasks, done)]
    _refuse_duplicates(tasks, shards)
    infos = {split: _write_index(store, split, tasks, shards) for split in splits}
    info = DatasetInfo(
        name=name, version=version, classes=classes, palette=palette, splits=infos, source=dict(source or {})
    )
    store.write(DATASET_KEY, info.to_json())
    _delete_ours(store, set(splits), kept=planned_keys(tasks) - {task.note_key for task in tasks})
    return info


def check_samples(
    store: Store,
    splits: Mapping[str, Sequence[Sample]],
    *,
    num_classes: int,
    samples_per_shard: int | Mapping[str, int] = SAMPLES_PER_SHARD,
    runner: Runner = on_threads,
    done: Done = lambda shard: None,
) -> None:
    """Raise for splits that `write_dataset` would raise for. Reads all samples, and touches nothing on storage."""
    tasks = plan_tasks(store, splits, num_classes, samples_per_shard, {})
    _refuse_duplicates(tasks, [shard.contents for shard in runner(check_shard, tasks, done)])


def _stored_splits(store: Store) -> set[str]:
    try:
        return set(read_dataset(store).splits)
    except InputError:  # none there, or one that no reader takes: there is nothing to know about it
        return set()


def _delete_ours(store: Store, splits: set[str], kept: set[str]) -> None:
    """Delete what a writer put into the splits' folders, but for the keys `kept`."""
    for split in sorted(splits):
        for key in store.list(f"{split}/"):
            if _OURS.fullmatch(key) and key not in kept:
                store.delete(key)


def _refuse_duplicates(tasks: Sequence[ShardTask], shards: Sequence[ShardContents]) -> None:
    """Raise InputError naming the sources of two samples of a split that have one key."""
    seen: dict[tuple[str, str], tuple[ShardTask, int]] = {}
    for task, contents in zip(tasks, shards, strict=True):
        for place, key in enumerate(contents.keys):
            first, at = seen.setdefault((task.split, key), (task, place))
            if first is not task:
                raise twice(task.split, key, first.samples[at].source, task.samples[place].source)


def _write_index(store: Store, split: str, tasks: Sequence[ShardTask], shards: Sequence[ShardContents]) -> SplitInfo:
    """Write the index of a split whose shards are all there. StorageError when one is not."""
    own = {task.key: shard for task, shard in zip(tasks, shards, strict=True) if task.split == split}
    missing = sorted(own.keys() - set(store.list(f"{split}/")))
    if missing:
        raise StorageError(
            f"{store.uri(missing[0])}: was written, but is not there: write to storage that all nodes of the cluster "
            "share, and let nobody else write there"
        )
    info, index = join_split(split, list(own), list(own.values()), store)
    store.write(f"{split}/{INDEX_NAME}", index)
    return info
