"""The probes of `encnet doctor` where no cluster is needed: real processes, a real folder, a real HTTP server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline import doctor_probes
from pipeline.doctor import JobsFacts, NodeFacts, RayFacts, Space, StorageFacts

TOKEN = "7" * 64


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that is an hour ahead, and answers only those who know the token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            knows = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self.send_response(200 if knows else 401)
            self.end_headers()
            self.wfile.write(b'{"ray_version": "2.1.0"}' if knows else b"")

        def do_HEAD(self) -> None:
            self.send_error(403)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + 3600.0, usegmt=True)

        def log_message(self, *_: object) -> None: ...

    for name in ("http_proxy", "HTTP_PROXY", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_folder_goes_the_round_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCNET_STORAGE", str(tmp_path))
    facts = doctor_probes.probe_storage()
    assert (facts.uri, facts.skew_s) == (str(tmp_path), None)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_gives_other_bytes_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.local_store import LocalStore

    monkeypatch.setenv("ENCNET_STORAGE", str(tmp_path))
    read = LocalStore.read
    monkeypatch.setattr(LocalStore, "read", lambda self, key, offset=0, length=None: read(self, key, 0, length))
    with pytest.raises(doctor_probes.ProbeFault, match=r"\.doctor-\w+: ranged get: not the bytes that were asked for"):
        doctor_probes.probe_storage()
    assert list(tmp_path.iterdir()) == []


def test_a_clock_is_read_off_any_http_server(server: str) -> None:
    skew_s = doctor_probes._clock_skew(server)
    assert skew_s is not None
    assert -3610.0 < skew_s < -3590.0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert doctor_probes._clock_skew(f"http://127.0.0.1:{taken.getsockname()[1]}") is None


def test_the_jobs_api_is_asked_with_the_token(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", server)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert doctor_probes.probe_jobs() == JobsFacts(url=server, status=401, ray="", client=ray.__version__)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert doctor_probes.probe_jobs() == JobsFacts(url=server, status=200, ray="2.1.0", client=ray.__version__)


def test_facts_survive_being_printed() -> None:
    space = Space(path="/tmp", total=2, free=1)
    node = NodeFacts(name="n", cpus=1.0, gpus=0.0, answers=True, spaces=(space, space))
    facts = RayFacts(address="a", ray="2", python="3", memory=1, nodes=(node, node))
    assert doctor_probes.facts_of("ray", asdict(facts)) == facts
    stored = StorageFacts(uri="u", seconds=0.5, skew_s=None)
    assert doctor_probes.facts_of("storage", asdict(stored)) == stored


def test_a_probe_is_a_process_that_ends_with_facts_or_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline.py").write_text("raise SystemExit('another package of that name')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENCNET_STORAGE", str(tmp_path / "runs"))
    ((name, facts),) = doctor_probes.gather(["storage"], 300.0)
    assert name == "storage"
    assert isinstance(facts, StorageFacts)
    monkeypatch.delenv("ENCNET_STORAGE")
    ((_, told),) = doctor_probes.gather(["storage"], 300.0)
    assert told.startswith("storage: empty: run 'encnet stack up'")


def test_a_probe_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections and never answers
        monkeypatch.setenv("ENCNET_STORAGE", "s3://encnet")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        assert dict(doctor_probes.gather(["storage"], 3.0)) == {"storage": "no answer within 3 s"}
