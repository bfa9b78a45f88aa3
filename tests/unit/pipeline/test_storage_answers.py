"""What S3 reads make of a server's answers: which are asked for again, and what the others become."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest

from pipeline import storage
from pipeline.errors import InputError, StorageError
from pipeline.resumed_read import Patience
from pipeline.storage import ObjectChanged, ObjectNotFound, S3Store

DATA = bytes(range(100))


class Answer(NamedTuple):
    """A status with an S3 error code, or a range of DATA with other headers than it should have."""

    status: int
    code: str = ""
    headers: dict[str, str] = {}  # noqa: RUF012
    body: bytes = b""


class ScriptedServer(ThreadingHTTPServer):
    """Gives the answers of `script` in turn, then what is asked for; closes each connection after its answer."""

    daemon_threads = False  # so that closing the server waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Answer] = []
        self.asked: list[tuple[str | None, str | None]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that close a connection early are no error here."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Range"], self.headers["If-Match"]))
        answer = self.server.script.pop(0) if self.server.script else Answer(206)
        body = answer.body or f"<Error><Code>{answer.code}</Code><Message>m</Message></Error>".encode()
        headers = {"ETag": '"1"'}
        if answer.status == 206:
            first, last = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
            last = min(last, len(DATA) - 1)
            body = answer.body or DATA[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(DATA)}"
        self.send_response(answer.status)
        for name, value in {**headers, "Content-Length": str(len(body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A server that has answered before, and clients in a hurry."""
    with ScriptedServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
        monkeypatch.setattr(storage, "PATIENCE", Patience(max_wait_s=0.0))
        assert _read() == DATA[10:30]
        server.asked.clear()
        yield server
        connection = storage._connection()
        connection.client.close()
        connection.single_try_client.close()
        server.shutdown()
        thread.join()


def _read(version: str = "") -> bytes:
    return S3Store(bucket="bucket").read_versioned("k", 10, 20, version).data


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (502, ""),
        (503, "SlowDown"),
        (503, "ServiceUnavailable"),
        (504, ""),
        (429, "TooManyRequests"),
        (400, "RequestTimeout"),
    ],
)
def test_what_may_pass_is_asked_for_again(server: ScriptedServer, status: int, code: str) -> None:
    server.script = [Answer(status, code)] * 3
    assert _read() == DATA[10:30]
    assert server.asked == [("bytes=10-29", None)] * 4


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (403, "AccessDenied", InputError, r"s3://bucket/k: access denied \(AccessDenied\)"),
        (404, "NoSuchKey", ObjectNotFound, r"s3://bucket/k: there is no such object"),
        (404, "NoSuchBucket", InputError, r"s3://bucket/k: there is no bucket 'bucket'"),
        (400, "InvalidArgument", StorageError, r"s3://bucket/k: .*InvalidArgument"),
        (501, "NotImplemented", StorageError, r"s3://bucket/k: .*NotImplemented"),
        (
            412,
            "PreconditionFailed",
            ObjectChanged,
            r"s3://bucket/k: was replaced while in use \(its version was \"1\"\)",
        ),
        (416, "InvalidRange", StorageError, r"k: 20 bytes asked for at offset 10, 0 are there: it is cut short"),
    ],
)
def test_what_can_not_pass_is_asked_for_once(
    server: ScriptedServer, status: int, code: str, kind: type[Exception], message: str
) -> None:
    server.script = [Answer(status, code)]
    with pytest.raises(kind, match=message):
        _read('"1"')
    assert server.asked == [("bytes=10-29", '"1"')]


def test_a_body_cut_short_is_taken_up_at_the_byte_after_and_of_the_same_version(server: ScriptedServer) -> None:
    server.script = [Answer(206, body=DATA[10:17], headers={"Connection": "close", "Content-Length": "20"})]
    assert _read() == DATA[10:30]
    assert server.asked == [("bytes=10-29", None), ("bytes=17-29", '"1"')]


def test_a_length_that_the_range_does_not_have_is_taken_up_too(server: ScriptedServer) -> None:
    server.script = [Answer(206, body=DATA[10:17])]
    assert _read() == DATA[10:30]
    assert server.asked == [("bytes=10-29", None), ("bytes=17-29", '"1"')]


def test_an_object_replaced_in_mid_read_is_not_put_together(server: ScriptedServer) -> None:
    server.script = [Answer(206, body=DATA[10:17]), Answer(206, headers={"ETag": '"2"'})]
    with pytest.raises(ObjectChanged, match=r"\(its version was \"1\" and is \"2\" now\)"):
        _read()


@pytest.mark.parametrize("answer", [Answer(200, body=DATA), Answer(206, headers={"Content-Range": "bytes 0-19/100"})])
def test_other_bytes_than_those_asked_for_are_refused(server: ScriptedServer, answer: Answer) -> None:
    server.script = [answer]
    with pytest.raises(StorageError, match=r"s3://bucket/k: bytes from 10 on were asked for, the store gave '.*': use"):
        _read()
    assert len(server.asked) == 1


def test_what_never_passes_names_object_range_and_attempts(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE", Patience(stall_s=0.1, max_wait_s=0.0))
    server.script = [Answer(503, "SlowDown")] * 100_000
    with pytest.raises(
        StorageError,
        match=r"^s3://bucket/k: bytes 10-29: given up after \d+ attempts, with no byte for .* s: .*SlowDown",
    ) as caught:
        _read()
    assert f"after {len(server.asked)} attempts" in str(caught.value)
