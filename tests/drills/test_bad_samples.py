"""Training samples that can't be decoded: a stated few are let pass and listed at the end of the run, no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.shards import DATASET_KEY, INDEX_NAME, format_index, read_dataset, read_index, run_checksum
from pipeline.storage import open_store
from tests.drills.epochs import write_scenes
from tests.integration.command import json_result, run_encnet
from tests.integration.conftest import TINY
from tests.running_stack import RunningStack

BAD = (2, 9)


@pytest.fixture(scope="module")
def data(stack: RunningStack) -> str:
    """A data set in which the images of two training samples are none, and indexed so."""
    uri = "s3://encnet/drills/bad-samples"
    write_scenes(uri, 16, num_val=4)
    store = open_store(uri)
    info, index = read_dataset(store), read_index(store, "train")
    index = replace(index, checksum=index.checksum.copy())
    shard = bytearray(store.read(index.shard_key(0)))
    for sample in BAD:
        begin = int(index.offset[sample])
        image = shard.index(f"{index.keys[sample]}.jpg\0".encode(), begin) + 512
        shard[image : image + 16] = bytes(16)
        index.checksum[sample] = run_checksum(bytes(shard[begin : begin + int(index.length[sample])]))
    split = replace(info.splits["train"], digest=index.digest())
    store.write(index.shard_key(0), bytes(shard))
    store.write(f"train/{INDEX_NAME}", format_index(index))
    store.write(DATASET_KEY, replace(info, splits={**info.splits, "train": split}).to_json())
    return uri


def test_a_run_lists_the_bad_samples_of_all_its_workers(data: str, tmp_path: Path) -> None:
    command = (*TINY, f"--data={data}", "--optim.max-steps=4", "--data.max-bad-samples=2")
    two = run_encnet(*command, "--name=bad-samples", "--num-workers=2", f"--data.cache-dir={tmp_path / 'cache'}")
    alone = run_encnet(*command, "--name=bad-samples-alone", "--num-workers=1")
    listed = json_result(two)["bad_samples"]
    keys = read_index(open_store(data), "train").keys
    for line, sample in zip(listed, BAD, strict=True):
        assert line.startswith(f"{data}/train/000000.tar: sample '{keys[sample]}': ")
    assert [line for line in two.stderr.splitlines() if line.startswith("bad sample")] == [
        f"bad sample  {line}" for line in listed
    ]
    assert json_result(alone)["bad_samples"] == listed
    assert len(list((tmp_path / "cache").iterdir())) > 1
    assert json_result(alone)["losses"] == pytest.approx(json_result(two)["losses"], rel=1e-4)


def test_more_than_allowed_over_all_workers_end_the_run(data: str) -> None:
    command = (*TINY, f"--data={data}", "--optim.max-steps=4", "--data.max-bad-samples=1", "--num-workers=2")
    done = run_encnet(*command, "--name=too-many-bad", "--workers.max-failures=0")
    assert done.returncode == 1
    assert "with it 2 samples are bad, and data.max_bad_samples allows 1" in done.stderr.splitlines()[-1]
