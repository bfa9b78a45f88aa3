"""A proxy before a real object store that spoils some of the reads, in the ways that networks do.

What it does to a read is a function of (seed, path, range, how often that was asked for), whatever threads do.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("reset", "truncate", "refuse", "trickle", "flip")
SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>'
TRICKLE_BYTES, TRICKLE_EVERY_S = 64, 0.1


class BadNetwork(ThreadingHTTPServer):
    """Forwards to `upstream`, and spoils one read in `one_in` of what ends with `suffix`; `done` counts what it did."""

    daemon_threads = True

    def __init__(self, upstream: str, seed: int, one_in: int, suffix: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.seed, self.one_in, self.suffix = urlsplit(upstream).netloc, seed, one_in, suffix
        self.done: Counter[str] = Counter()
        self.reads = 0
        self.is_away = False
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that close a connection are no error here."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, what: str) -> str:
        """What to do to this read: one of FAULTS, or "" for nothing."""
        with self._lock:
            number = self._asked[what]
            self._asked[what] += 1
            self.reads += 1
            draw = int.from_bytes(hashlib.sha256(f"{self.seed} {what} {number}".encode()).digest()[:8], "big")
            fault = FAULTS[draw // self.one_in % len(FAULTS)] if draw % self.one_in == 0 else ""
            self.done[fault] += 1
        return fault


@contextmanager
def bad_network(upstream: str, *, seed: int, one_in: int = 20, suffix: str = ".tar") -> Iterator[BadNetwork]:
    """A running proxy; afterwards nothing answers there any more."""
    with BadNetwork(upstream, seed, one_in, suffix) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="bad-network")
        thread.start()
        try:
            yield server
        finally:
            server.is_away = True  # connections that are open outlive the server
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: BadNetwork
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one go

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.server.is_away:
            self.close_connection = True
            return None
        is_meant = urlsplit(self.path).path.endswith(self.server.suffix)
        fault = self.server.fault(f"{self.path} {self.headers.get('Range')}") if is_meant else ""
        if fault == "refuse":
            return self._answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
        try:
            status, headers, body = self._forward()
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # the store is away
            return None
        return self._answer(status, headers, body, fault if status < 300 else "")

    do_HEAD = do_GET

    def _forward(self) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            connection.request(self.command, self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: str = "") -> None:
        if fault == "flip":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 0x10]) + body[middle + 1 :]
        self.send_response(status)
        dropped = {"connection", "date", "server", "transfer-encoding"} | ({"content-length"} if body else set())
        for name, value in headers.items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        if body:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self._send(body, fault)
        except OSError:
            self.close_connection = True  # the client had enough

    def _send(self, body: bytes, fault: str) -> None:
        if fault == "trickle":
            for start in range(0, len(body), TRICKLE_BYTES):
                self.wfile.write(body[start : start + TRICKLE_BYTES])
                self.wfile.flush()
                time.sleep(TRICKLE_EVERY_S)
            return
        is_cut = fault in ("reset", "truncate")
        self.wfile.write(body[: len(body) // 2] if is_cut else body)
        self.wfile.flush()
        if fault == "reset":
            # Closed with linger 0, a socket says RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = is_cut or self.close_connection
