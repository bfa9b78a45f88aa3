"""An MLflow server of a test's own, which may go away and come back, and a proxy that is slow or loses answers."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from infra.local import ports, processes
from infra.local.parts import base_environ, http_problem, program

START_TIMEOUT_S = 240.0


class LoneMlflow:
    """MLflow on a port that stays the same; runs in SQLite and artifacts in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.port = ports.choose(["http"])["http"]
        self.uri = f"http://{ports.HOST}:{self.port}"
        self._folder, self._mark = folder, f"lone-mlflow-{os.getpid()}-{self.port}"
        self._process: processes.ProcessId | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = processes.start(
            [
                program("mlflow", "mlflow"), "server", f"--backend-store-uri=sqlite:///{self._folder / 'mlflow.db'}",
                f"--artifacts-destination={self._folder / 'artifacts'}", f"--host={ports.HOST}", f"--port={self.port}",
                "--workers=1", "--allowed-hosts=*",
            ],
            cwd=self._folder,
            environ={**base_environ(os.environ, self._folder), "MLFLOW_DISABLE_TELEMETRY": "true"},
            log=self._folder / "mlflow.log",
            mark=self._mark,
        )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while problem := http_problem(self.port, "/api/2.0/mlflow/experiments/search?max_results=1"):
            assert time.monotonic() < deadline, problem
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop it; what it has confirmed is kept."""
        processes.stop(self._process, self._mark, grace_s=5.0)


@contextmanager
def lone_mlflow(folder: Path) -> Iterator[LoneMlflow]:
    """A running server."""
    server = LoneMlflow(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Proxy(ThreadingHTTPServer):
    """Forwards to a port of this machine, and answers late, or not at all once the server has done its work.

    After `num_left` requests it lets no more through.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__((ports.HOST, 0), _Handler)
        self.port, self.uri = port, f"http://{ports.HOST}:{self.server_address[1]}"
        self.delay_s, self.loses_answers = 0.0, False
        self.num_requests = self.num_attempts = 0
        self.num_left: int | None = None

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that close a connection, and a server that is away, are no errors here."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        body = self._body()
        headers = {name: text for name, text in self.headers.items() if name.lower() != "transfer-encoding"}
        self.server.num_attempts += 1
        if self.server.num_left == 0:
            self.close_connection = True
            return
        if self.server.num_left:
            self.server.num_left -= 1
        upstream = http.client.HTTPConnection(ports.HOST, self.server.port, timeout=30)
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        self.server.num_requests += 1
        time.sleep(self.server.delay_s)
        self.close_connection = True
        if self.server.loses_answers:
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """A running proxy."""
    with Proxy(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="mlflow-proxy")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
