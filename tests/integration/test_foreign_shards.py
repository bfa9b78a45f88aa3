"""Shards that others wrote, on S3: by a stock webdataset.ShardWriter, and by plain tar in shuffled order."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pipeline.eval_loader import EvalLoader
from pipeline.loader import TrainLoader
from pipeline.order import Order, plan_blocks
from pipeline.shards import read_index
from pipeline.storage import open_store
from pipeline.transforms import TransformConfig
from pipeline.world import World
from tests.integration.command import json_result, run_encnet
from tests.running_stack import RunningStack
from tests.unit.pipeline.made_up_data import CLASSES, colours, make_samples, png

NUM_SAMPLES = 14


def write_with_webdataset(folder: Path) -> None:
    with webdataset.ShardWriter(str(folder / "train-%03d.tar"), maxcount=5, verbose=0) as writer:
        for one in make_samples(NUM_SAMPLES):
            writer.write(
                {"__key__": f"set.v1/{one.key}", "png": one.image, "mask.png": png(one.label), "json": {"a": 1}}
            )


def write_with_tar(folder: Path) -> None:
    source = folder / "files"
    (source / "set.v1").mkdir(parents=True)
    for one in make_samples(NUM_SAMPLES):
        (source / f"set.v1/{one.key}.png").write_bytes(one.image)
        (source / f"set.v1/{one.key}.mask.png").write_bytes(png(one.label))
    names = [f"./{path.relative_to(source)}" for path in source.rglob("*") if path.is_file()]
    random.Random(0).shuffle(names)
    for shard in range(2):
        # Keys are shared out among shards, as webdataset wants; members stand in any order.
        part = [name for name in names if int(Path(name).name[1:5]) % 2 == shard]
        subprocess.run(["tar", "-cf", str(folder / f"train-{shard:03}.tar"), "-C", source, *part], check=True)


@pytest.mark.parametrize(("name", "write"), [("shard-writer", write_with_webdataset), ("shuffled-tar", write_with_tar)])
def test_they_are_indexed_verified_and_read(
    stack: RunningStack, tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path)
    uri = f"s3://encnet/tests/{name}"
    store = open_store(uri)
    store.ensure_bucket()
    shards = sorted(tmp_path.glob("*.tar"))
    for path in shards:
        store.upload(path.name, path)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    options = ("--classes", str(tmp_path / "classes.txt"), "--split", "train=train-*.tar", "--label-ext", "mask.png")
    indexed = json_result(run_encnet("data", "index", uri, *options, "--json"))
    assert indexed["splits"]["train"]["samples"] == NUM_SAMPLES
    verified = json_result(run_encnet("data", "verify", uri, "--json"))
    assert verified["splits"]["train"] == {
        "samples": NUM_SAMPLES,
        "bytes": sum(path.stat().st_size for path in shards),
        "faults": [],
    }
    index = read_index(store, "train")
    expected = {f"set.v1/{one.key}": one.label for one in make_samples(NUM_SAMPLES)}
    assert sorted(index.keys) == sorted(expected)
    for batch in EvalLoader(store, index, world=World()):
        label = expected[index.keys[int(batch.sample_ids[0])]]
        assert np.array_equal(batch.labels[0].numpy(), label)
        assert np.array_equal(batch.images[0].numpy(), colours(label))
    order = Order(plan_blocks(index.shard, index.offset, index.length), seed=0, batch_size=2)
    transform = TransformConfig(crop_size=(32, 32), scale_min=1, scale_max=1)
    with TrainLoader(store, index, order, world=World(), transform=transform, seed=0, threads=2) as loader:
        batches = list(islice(loader, NUM_SAMPLES // 2))
    assert sorted(one for batch in batches for one in batch.sample_ids.tolist()) == list(range(NUM_SAMPLES))
    for train_batch in batches:
        assert np.array_equal(train_batch.images.numpy(), colours(train_batch.labels.numpy()))
    store.delete(shards[0].name)
    done = run_encnet("data", "verify", uri)
    assert done.returncode == 1
    missing = int((index.shard == 0).sum())
    assert f"{uri}/{shards[0].name}: is missing, with {missing} samples" in done.stderr.splitlines()
    assert done.stderr.splitlines()[-1] == (f"encnet: {uri}: 1 fault: restore the shards, or write or index them again")
