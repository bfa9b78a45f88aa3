"""Which sample goes into which shard: each into one, in order, and the same for everybody."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets import context_scenes
from pipeline.errors import InputError
from pipeline.shard_plan import (
    SAMPLES_PER_SHARD,
    SHARD_BYTES,
    ShardTask,
    fitting_samples,
    plan_shards,
    plan_tasks,
    planned_keys,
)
from pipeline.storage import LocalStore

STORE = LocalStore(root=Path("/nowhere"))


@given(count=st.integers(0, 5000), samples_per_shard=st.integers(1, 1500))
def test_each_sample_goes_into_one_shard_in_order(count: int, samples_per_shard: int) -> None:
    shards = plan_shards(count, samples_per_shard)
    assert [sample for shard in shards for sample in shard] == list(range(count))
    assert all(len(shard) == samples_per_shard for shard in shards[:-1])
    assert all(0 < len(shard) <= samples_per_shard for shard in shards)


@given(count=st.integers(1, 10**9), mean=st.integers(1, 4 * SHARD_BYTES), more=st.integers(0, 100))
def test_shards_come_to_about_64_mib(count: int, mean: int, more: int) -> None:
    num_bytes = count * mean + more % count
    chosen = fitting_samples(count, num_bytes)
    assert 1 <= chosen <= SAMPLES_PER_SHARD
    if chosen > 1:
        assert chosen * num_bytes <= SHARD_BYTES * count
    if chosen < SAMPLES_PER_SHARD:
        assert (chosen + 1) * num_bytes > SHARD_BYTES * count


def test_what_nobody_knows_the_size_of_goes_by_the_thousand() -> None:
    assert fitting_samples(480, None) == SAMPLES_PER_SHARD
    assert fitting_samples(480, 0) == SAMPLES_PER_SHARD


def _tasks(counts: dict[str, int], size: int = 10, seed: int = 0, num_classes: int = 19) -> list[ShardTask]:
    splits = {split: context_scenes.samples(split, count, seed) for split, count in counts.items()}
    return plan_tasks(STORE, splits, num_classes, size, {"seed": seed, **counts})


def test_a_task_is_small_and_holds_its_own_samples() -> None:
    tasks = _tasks({"train": 1_000_000, "val": 5}, size=1000)
    assert len(tasks) == 1001
    assert [task.key for task in tasks[-2:]] == ["train/000999.tar", "val/000000.tar"]
    sent = pickle.dumps(tasks[7])
    assert len(sent) < 1000
    received: ShardTask = pickle.loads(sent)  # noqa: S301
    expected = context_scenes.samples("train", 7002, seed=0)
    assert len(received.samples) == 1000
    assert [received.samples[place].image for place in (0, 1)] == [expected[place].image for place in (7000, 7001)]
    assert received.identity == tasks[7].identity


def test_the_identity_tells_shards_apart() -> None:
    tasks = _tasks({"train": 25, "val": 10})
    others = (
        _tasks({"train": 25, "val": 10}, seed=1)
        + _tasks({"train": 25, "val": 10}, size=7)
        + _tasks({"train": 25, "val": 10}, num_classes=20)
    )
    identities = [task.identity for task in tasks + others]
    assert len(set(identities)) == len(identities)
    assert [task.identity for task in _tasks({"train": 25, "val": 10})] == identities[: len(tasks)]


def test_samples_of_unknown_source_have_none() -> None:
    splits = {"train": context_scenes.samples("train", 3, seed=0)}
    assert [task.identity for task in plan_tasks(STORE, splits, 19, {"train": 2}, {})] == ["", ""]


def test_what_will_be_written_is_known_beforehand() -> None:
    assert planned_keys(_tasks({"a": 11})) == {
        "a/000000.tar", "a/000001.tar", "a/000000.done.json", "a/000001.done.json", "a/index.parquet",
    }  # fmt: skip


def test_a_split_without_samples_is_refused() -> None:
    with pytest.raises(InputError, match="split 'b': holds no samples: give it some, or leave it out"):
        _tasks({"a": 3, "b": 0})
