"""`dataset.json` and the indexes for shards that are on storage already. The shards themselves are left as they are."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.shard_index import ShardContents, index_stored_shard, join_shards
from pipeline.shard_runner import Runner, on_threads
from pipeline.shards import (
    DATASET_KEY,
    IGNORE_INDEX,
    INDEX_NAME,
    DatasetInfo,
    MemberNames,
    SplitInfo,
    format_index,
    shard_key,
)
from pipeline.storage import Store

Progress = Callable[[str], None]
"""Told the split of each shard that is done."""


def member_names(image: Sequence[str] | None, label: Sequence[str]) -> MemberNames:
    """The extensions of images and labels, checked; images of None: the usual ones that are not labels'.

    Raises InputError for one that is empty or in both.
    """
    labels = tuple(name.lower().lstrip(".") for name in label)
    given = MemberNames().image if image is None else tuple(name.lower().lstrip(".") for name in image)
    images = tuple(name for name in given if image is not None or name not in labels)
    for option, names in (("image-ext", images), ("label-ext", labels)):
        if not names or "" in names:
            raise InputError(f"{option}: {','.join(names)!r}: give extensions, such as jpg,png")
    if both := set(images) & set(labels):
        raise InputError(f"label-ext: {sorted(both)[0]!r} is an image's in --image-ext too: leave it out of one")
    return MemberNames(image=images, label=labels)


def find_shards(keys: Iterable[str], splits: Mapping[str, str], uri: str) -> dict[str, list[str]]:
    """Split -> the keys of its shards, sorted, among `keys`; `splits`: a pattern (`*`, `?`, `[]`) or prefix of each.

    Without `splits` each folder that holds tar files is a split. Raises InputError when a split has no shards, two
    splits have one in common, or a split's name can't be a folder's.
    """
    tars = sorted(key for key in keys if key.endswith(".tar"))
    splits = dict(splits) or {key.partition("/")[0]: f"{key.partition('/')[0]}/" for key in tars if "/" in key}
    if not splits:
        raise InputError(
            f"{uri}: holds no folder with .tar files: give --split NAME=PATTERN, such as train=train-*.tar"
        )
    found: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split, pattern in splits.items():
        if not re.fullmatch(r"[\w-][\w.-]*", split):
            raise InputError(f"split: {split!r} is no name of a split: use letters, digits, '-', '_' and '.'")
        is_pattern = any(sign in pattern for sign in "*?[")
        found[split] = [
            key for key in tars if (fnmatch.fnmatchcase(key, pattern) if is_pattern else key.startswith(pattern))
        ]
        if not found[split]:
            there = f"such as {tars[0]}" if tars else "there are none"
            raise InputError(f"split: {split}={pattern}: no .tar below {uri} matches it ({there}): correct the pattern")
        for key in found[split]:
            if owner.setdefault(key, split) != split:
                raise InputError(f"split: {key} is in {owner[key]!r} and in {split!r}: narrow the patterns")
    return found


def write_index(
    store: Store,
    shards: Mapping[str, Sequence[str]],
    *,
    name: str,
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...],
    members: MemberNames,
    ignore_index: int = IGNORE_INDEX,
    source: Mapping[str, Any] | None = None,
    runner: Runner = on_threads,
    progress: Progress = lambda split: None,
) -> tuple[DatasetInfo, dict[str, int]]:
    """Index the shards of each split and write the indexes and `dataset.json`, last; and how many members were skipped.

    All is read before anything is written, so a fault leaves what was there. Raises InputError for an ignore index
    that is a class's, or a split without samples; DataError naming shard and member for what no reader could use.
    """
    if not len(classes) <= ignore_index <= IGNORE_INDEX:
        raise InputError(
            f"ignore-index: {ignore_index} is out of range: give {len(classes)} to {IGNORE_INDEX}, "
            f"since ids 0 to {len(classes) - 1} are the {len(classes)} classes"
        )
    index_one = partial(index_stored_shard, store, names=members, num_classes=len(classes), ignore_index=ignore_index)
    infos: dict[str, SplitInfo] = {}
    files: dict[str, bytes] = {}
    skipped: dict[str, int] = {}
    for split, keys in shards.items():
        contents = runner(index_one, keys, partial(_tell, progress, split))
        if not any(shard.keys for shard in contents):
            wanted = " or ".join(members.image + members.label)
            raise InputError(
                f"split {split!r}: its {len(keys)} shards hold no member .{wanted}: give --image-ext and --label-ext"
            )
        infos[split], files[f"{split}/{INDEX_NAME}"] = join_split(split, keys, contents, store)
        skipped[split] = sum(shard.skipped for shard in contents)
    info = DatasetInfo(
        name=name,
        version="1",
        classes=classes,
        palette=palette,
        ignore_index=ignore_index,
        members=members,
        splits=infos,
        source=dict(source or {}),
    )
    store.delete(DATASET_KEY)
    for key, data in files.items():
        store.write(key, data)
    store.write(DATASET_KEY, info.to_json())
    return info, skipped


def _tell(progress: Progress, split: str, shard: ShardContents) -> None:
    progress(split)


def join_split(
    split: str, keys: Sequence[str], contents: Sequence[ShardContents], store: Store
) -> tuple[SplitInfo, bytes]:
    """What `dataset.json` says of a split, and its `index.parquet`, from the keys of its shards and what is in them.

    Raises DataError when two of them hold the same key.
    """
    # An index names shards by their samples: one without any has no place in it.
    filled = [(shard_name(split, key), shard) for key, shard in zip(keys, contents, strict=True) if shard.keys]
    index = join_shards(split, [name for name, _ in filled], [shard for _, shard in filled], store)
    info = SplitInfo(
        samples=len(index),
        shards=len(filled),
        bytes=sum(shard.num_bytes for _, shard in filled),
        digest=index.digest(),
        class_pixels=tuple(np.sum([shard.class_pixels for shard in contents], axis=0).tolist()),
    )
    return info, format_index(index)


def shard_name(split: str, key: str) -> str:
    """How a split's index names the shard at `key`: the inverse of `shard_key`."""
    name = key.removeprefix(f"{split}/")
    name = name if name != key else f"/{key}"
    assert shard_key(split, name) == key
    return name
