"""`encnet submit` before it meets a cluster: what a job is sent, and addresses that are refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.local import settings
from infra.local.errors import StackInputError
from pipeline.errors import InputError
from workflows import submit


def test_a_job_is_sent_the_packages_and_nothing_else(tmp_path: Path) -> None:
    submit.stage(tmp_path)
    sent = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.parts[0] for path in sent} == {"encnet", "pipeline", "workflows", "infra"}
    assert {Path("workflows/cli.py"), Path("pipeline/train_worker.py"), Path("encnet/model.py")} <= sent
    assert not [path for path in sent if "__pycache__" in path.parts]
    assert sum((tmp_path / path).stat().st_size for path in sent) < 2_000_000


def test_a_bad_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^address: 'cluster:8265': write the dashboard's address as http://HOST"):
        submit.connect("cluster:8265")
    with socket.socket() as taken:  # bound, not listening: nobody else can be there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError) as caught:
            submit.connect(url)
    assert str(caught.value).startswith(f"address: {url!r} does not answer: run 'encnet stack up', or check the ")
    assert "\n" not in str(caught.value)
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StackInputError, match="stack is not up: RAY_ADDRESS is not set"):
        submit.connect()


@pytest.fixture
def dashboard() -> Iterator[ThreadingHTTPServer]:
    """Something at an address: it keeps the credentials it is sent and refuses all."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers.get("Authorization", "nothing"))
            self.send_error(401)

        def log_message(self, *_: object) -> None: ...

    sent: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.sent = sent  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("is_the_stack", "sent"), [(True, "Bearer " + "5" * 64), (False, "nothing")])
def test_the_stacks_token_goes_to_the_stack_only(
    tmp_path: Path, dashboard: ThreadingHTTPServer, is_the_stack: bool, sent: str
) -> None:
    url = f"http://127.0.0.1:{dashboard.server_port}"
    token = tmp_path / "auth_token"
    token.write_text("5" * 64)
    env = settings.environment_file({"ENCNET_HOME": str(tmp_path)})
    env.parent.mkdir(parents=True)
    env.write_text(
        settings.render(
            {
                "RAY_ADDRESS": "127.0.0.1:1",
                "RAY_API_SERVER_ADDRESS": url if is_the_stack else "http://127.0.0.1:1",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(token),
            }
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "workflows.cli", "submit", "--address", url, "--", "stack", "status"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ENCNET_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "check the address and the token" in done.stderr
    assert "5555" not in done.stdout + done.stderr
    assert set(dashboard.sent) == {sent}  # type: ignore[attr-defined]
