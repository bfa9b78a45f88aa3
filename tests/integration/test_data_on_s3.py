"""The data plane on the local stack's S3 server."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import boto3
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.datasets import context_scenes
from pipeline.errors import InputError, StorageError
from pipeline.eval_loader import EvalLoader
from pipeline.loader import TrainLoader
from pipeline.order import Order, plan_blocks
from pipeline.shards import read_dataset, read_index
from pipeline.storage import ObjectChanged, ObjectNotFound, open_store
from pipeline.transforms import TransformConfig, decode_image
from pipeline.world import World
from tests.drills.bad_network import FAULTS, bad_network
from tests.drills.epochs import assert_same, read_epoch, write_scenes
from tests.running_stack import RunningStack
from tests.unit.pipeline.made_up_data import read_with_webdataset
from workflows.prepare import data

NUM_TRAIN, NUM_VAL = 16, 4


PREPARED = "s3://scenes-bucket/data/scenes"


@pytest.fixture(autouse=True)
def running(stack: RunningStack) -> RunningStack:
    """Every test here needs the object store."""
    return stack


def _prepare(uri: str, *more: str) -> dict[str, object]:
    arguments = ["prepare", "context-scenes", "--dest", uri, "--train-samples", str(NUM_TRAIN), "--json"]
    result = CliRunner().invoke(data, [*arguments, "--val-samples", str(NUM_VAL), *more], catch_exceptions=False)
    described: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return described


def test_a_prepared_set_is_read_by_stock_clients(stack: RunningStack, tmp_path: Path) -> None:
    described = _prepare(PREPARED)
    client = boto3.session.Session().client("s3", endpoint_url=stack.environment["AWS_ENDPOINT_URL"])
    listed = client.list_objects_v2(Bucket="scenes-bucket", Prefix="data/")["Contents"]
    names = ("dataset.json", "train/000000.tar", "train/index.parquet", "val/000000.tar", "val/index.parquet")
    assert [item["Key"] for item in listed] == [f"data/scenes/{name}" for name in names]
    client.download_file("scenes-bucket", "data/scenes/train/000000.tar", str(tmp_path / "000000.tar"))
    client.close()
    expected = list(context_scenes.samples("train", NUM_TRAIN, seed=0))
    read = read_with_webdataset([tmp_path / "000000.tar"])
    assert [sample["__key__"] for sample in read] == [sample.key for sample in expected]
    assert [sample["jpg"] for sample in read] == [sample.image for sample in expected]
    assert described["digest"] == read_dataset(open_store(PREPARED)).digest
    assert not _prepare(PREPARED)["prepared"]


def test_loaders_read_from_s3() -> None:
    _prepare(PREPARED)
    store = open_store(PREPARED)
    index = read_index(store, "train")
    order = Order(plan_blocks(index.shard, index.offset, index.length, 50_000), seed=0, batch_size=4, window=8)
    transform = TransformConfig(crop_size=(96, 128))
    with TrainLoader(store, index, order, world=World(), transform=transform, seed=0, threads=2) as loader:
        batches = list(islice(loader, NUM_TRAIN // 4))
        assert loader.metrics.bytes_read == int(index.length.sum())
    assert sorted(sample for batch in batches for sample in batch.sample_ids.tolist()) == list(range(NUM_TRAIN))
    images = {
        sample: image
        for batch in EvalLoader(store, read_index(store, "val"), world=World())
        for sample, image in zip(batch.sample_ids.tolist(), batch.images, strict=True)
    }
    for number, sample in enumerate(context_scenes.samples("val", NUM_VAL, seed=0)):
        assert np.array_equal(images[number].numpy(), decode_image(sample.image, "jpg"))


def test_objects_are_written_read_by_range_and_deleted(tmp_path: Path) -> None:
    store = open_store("s3://plain-bucket/some/prefix")
    store.ensure_bucket()
    store.ensure_bucket()
    store.write("a/b", b"0123456789")
    assert store.read("a/b") == b"0123456789"
    assert store.read("a/b", 3, 4) == b"3456"
    assert store.read("a/b", 7) == b"789"
    with pytest.raises(StorageError, match=r"a/b: 5 bytes asked for at offset 8, 2 are there: it is cut short"):
        store.read("a/b", 8, 5)
    with pytest.raises(ObjectNotFound, match=r"s3://plain-bucket/some/prefix/none: there is no such object"):
        store.read("none")
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 20)
    store.upload("large", tmp_path / "large")
    assert store.read("large") == (tmp_path / "large").read_bytes()
    assert store.list() == ["a/b", "large"]
    assert store.list("a/") == ["a/b"]
    store.delete("a/b")
    store.delete("a/b")
    assert (store.exists("a/b"), store.exists("large")) == (False, True)


def test_many_threads_share_a_store() -> None:
    store = open_store("s3://plain-bucket/threads")
    store.ensure_bucket()
    store.write("x", bytes(range(256)) * 1000)
    with ThreadPoolExecutor(16) as pool:
        parts = list(pool.map(lambda start: store.read("x", start, 256), range(0, 25_600, 256)))
    assert set(parts) == {bytes(range(256))}


def test_a_bad_network_changes_no_epoch(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short form of the drill: one read in four is spoilt."""
    uri = "s3://encnet/tests/bad-network"
    write_scenes(uri, 48)
    undisturbed = read_epoch(uri, block_bytes=8_000)
    with bad_network(stack.environment["AWS_ENDPOINT_URL"], seed=10, one_in=4) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.address)
        epoch = read_epoch(uri, block_bytes=8_000)
    assert_same(epoch, undisturbed)
    assert all(network.done[fault] for fault in FAULTS), network.done


def test_what_cannot_pass_is_asked_for_once(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("s3://plain-bucket/some/prefix")
    store.ensure_bucket()
    store.write("a.tar", b"0123456789")
    with bad_network(stack.environment["AWS_ENDPOINT_URL"], seed=0, one_in=1 << 60) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.address)
        assert store.read("a.tar", 2, 3) == b"234"
        with pytest.raises(ObjectNotFound):
            store.read("none.tar")
        with pytest.raises(StorageError, match=r"a\.tar: 5 bytes asked for at offset 12, 0 are there: it is cut short"):
            store.read("a.tar", 12, 5)
        assert network.reads == 3
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "somethingwrong")
        with pytest.raises(InputError, match="access denied"):
            store.read("a.tar")
        assert network.reads == 4


def test_an_object_replaced_between_two_reads_is_an_error() -> None:
    store = open_store("s3://plain-bucket/replaced")
    store.ensure_bucket()
    store.write("a", b"the first")
    data, version = store.read_versioned("a", 0, 4)
    assert data == b"the "
    assert store.read_versioned("a", 4, 5, version) == (b"first", version)
    store.write("a", b"the other")
    with pytest.raises(ObjectChanged) as caught:
        store.read_versioned("a", 4, 5, version)
    assert str(caught.value) == (
        f"s3://plain-bucket/replaced/a: was replaced while in use (its version was {version}): leave a data set alone "
        "while it is read, and start again"
    )


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named_and_no_secret_shown(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "somethingwrong")
    code, shown = {
        "AWS_ACCESS_KEY_ID": ("InvalidAccessKeyId", "some"),
        "AWS_SECRET_ACCESS_KEY": ("SignatureDoesNotMatch", stack.environment["AWS_ACCESS_KEY_ID"][:4]),
    }[name]
    store = open_store("s3://scenes-bucket/data/scenes")
    with pytest.raises(InputError) as caught:
        read_dataset(store)
    assert str(caught.value) == (
        f"s3://scenes-bucket/data/scenes/dataset.json: access denied ({code}) with AWS_ACCESS_KEY_ID={shown}… at "
        f"{stack.environment['AWS_ENDPOINT_URL']}: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL "
        "('encnet stack up' writes those of the local stack)"
    )
    for operation in (store.list, store.ensure_bucket, lambda: store.write("x", b""), lambda: store.exists("x")):
        with pytest.raises(InputError, match="access denied"):
            operation()
    with pytest.raises(InputError, match="access denied"):
        store.upload("x", Path(__file__))


def test_a_place_without_a_data_set_is_named(stack: RunningStack) -> None:
    with pytest.raises(InputError) as caught:
        read_dataset(open_store("s3://no-such-bucket/x"))
    assert str(caught.value) == (
        "s3://no-such-bucket/x/dataset.json: there is no bucket 'no-such-bucket' at "
        f"{stack.environment['AWS_ENDPOINT_URL']}: check the name"
    )
    store = open_store("s3://plain-bucket/empty")
    store.ensure_bucket()
    with pytest.raises(InputError, match=r"s3://plain-bucket/empty: no dataset\.json there"):
        read_dataset(store)


@pytest.mark.parametrize("bucket", ["ab", "Under_Score", "a bucket"])
def test_a_bad_bucket_name_is_named(bucket: str) -> None:
    with pytest.raises(InputError, match=bucket):
        _prepare(f"s3://{bucket}/x")
