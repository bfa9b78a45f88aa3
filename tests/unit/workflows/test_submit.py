"""`encnet submit` before it meets a cluster: what a job is sent, and addresses that are refused."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

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
