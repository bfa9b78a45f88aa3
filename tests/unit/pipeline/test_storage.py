"""Local stores, URIs, and what S3 errors become."""

from __future__ import annotations

import pickle
import socket
from pathlib import Path

import pytest

from pipeline.errors import InputError, StorageError
from pipeline.storage import LocalStore, ObjectNotFound, S3Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(root=tmp_path / "root")


def test_uris_open_the_store_they_name(tmp_path: Path) -> None:
    assert open_store("s3://bucket/a/b/") == S3Store(bucket="bucket", prefix="a/b")
    assert open_store("s3://bucket").uri("x/y") == "s3://bucket/x/y"
    assert open_store(str(tmp_path)) == open_store(f"file://{tmp_path}") == LocalStore(root=tmp_path)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "uri: '' names no place: give s3://bucket/prefix or a path"),
        ("s3:///x", "s3:///x: the bucket's name is missing: give s3://bucket/prefix"),
        ("gs://b/x", "gs://b/x: storage of kind 'gs' is not known: give s3://bucket/prefix or a path"),
    ],
)
def test_other_uris_are_refused(uri: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        open_store(uri)
    assert str(caught.value) == message


def test_what_was_written_is_read_whole_and_by_range(store: LocalStore, tmp_path: Path) -> None:
    store.write("a/b", b"0123456789")
    assert store.read("a/b") == b"0123456789"
    assert store.read("a/b", 3) == b"3456789"
    assert store.read("a/b", 3, 4) == b"3456"
    assert store.read("a/b", 3, 0) == b""
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    store.upload("a/c", tmp_path / "file")
    assert store.read("a/c") == b"x" * 3_000_000
    assert store.list() == ["a/b", "a/c"]
    assert store.list("a/b") == ["a/b"]
    assert store.list("nothing/") == []
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")
    assert store.exists("a/c")


def test_a_listing_tells_the_versions_that_reads_tell(store: LocalStore) -> None:
    store.write("a/b", b"01")
    store.write("c", b"")
    versions = store.versions()
    assert list(versions) == store.list()
    assert versions == {key: store.read_versioned(key).version for key in store.list()}
    assert list(store.versions("a/")) == ["a/b"]
    store.write("a/b", b"012")
    assert store.versions()["a/b"] != versions["a/b"]
    assert store.versions("nothing/") == {}


def test_a_range_past_the_end_is_an_error(store: LocalStore) -> None:
    store.write("a", b"0123456789")
    with pytest.raises(StorageError, match=r"5 bytes asked for at offset 8, 2 are there: it is cut short"):
        store.read("a", 8, 5)


def test_a_missing_object_has_its_own_error(store: LocalStore) -> None:
    with pytest.raises(ObjectNotFound, match=r"root/none: there is no such file"):
        store.read("none")


@pytest.mark.parametrize("key", ["", "../outside", "/etc/passwd"])
def test_keys_stay_below_the_root(store: LocalStore, key: str) -> None:
    with pytest.raises(InputError, match="is no key below it"):
        store.read(key)


def test_a_failed_write_leaves_the_old_object_and_nothing_else(store: LocalStore, tmp_path: Path) -> None:
    store.write("a", b"old")
    with pytest.raises(StorageError):
        store.upload("a", tmp_path / "no such file")
    assert store.read("a") == b"old"
    assert [path.name for path in store.root.iterdir()] == ["a"]


def test_a_file_in_the_way_of_a_folder_is_the_users_error(store: LocalStore) -> None:
    store.write("a", b"a file")
    with pytest.raises(InputError, match="give a folder that can be read and written"):
        store.write("a/b", b"")


def _clear_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ENDPOINT_URL", "ENDPOINT_URL_S3"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _clear_aws(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{_free_port()}")
    with pytest.raises(InputError) as caught:
        open_store("s3://bucket/x").read("a")
    assert str(caught.value) == (
        "s3://bucket/x/a: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
        "('encnet stack up' writes those of the local stack)"
    )


def test_an_endpoint_that_never_answered_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _clear_aws(monkeypatch, tmp_path)
    endpoint = f"http://127.0.0.1:{_free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    with pytest.raises(InputError) as caught:
        open_store("s3://bucket/x").exists("a")
    assert str(caught.value) == (
        f"s3://bucket/x/a: nothing answers at {endpoint}: check AWS_ENDPOINT_URL, "
        "or start the local stack with 'encnet stack up'"
    )


def test_an_endpoint_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _clear_aws(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not an address")
    with pytest.raises(InputError, match=r"AWS settings: Invalid endpoint: not an address"):
        open_store("s3://bucket/x").read("a")


def test_stores_can_be_sent_to_a_worker(store: LocalStore) -> None:
    remote = S3Store(bucket="bucket", prefix="p")
    assert pickle.loads(pickle.dumps(remote)) == remote  # noqa: S301
    assert pickle.loads(pickle.dumps(store)) == store  # noqa: S301
