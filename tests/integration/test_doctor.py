"""`encnet doctor` on the real stack: sound parts are found sound, each broken one is found, and none shows a secret."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage import open_store
from tests.integration.command import json_result, run_encnet
from tests.running_stack import RunningStack


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["checks"]
    return {check["name"]: check for check in found}


def secrets_of(stack: RunningStack) -> list[str]:
    token = Path(stack.environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    return [stack.environment["AWS_SECRET_ACCESS_KEY"], stack.environment["AWS_ACCESS_KEY_ID"], token]


def test_a_sound_stack_is_found_sound(stack: RunningStack) -> None:
    done = run_encnet("doctor", "--json")
    result = json_result(done)
    assert result["ok"] is True
    found = checks(done)
    for name in ("settings", "token", "storage", "clock", "MLflow", "MLflow artifacts", "MLflow version", "Jobs API",
                 "Ray", "Ray version", "Python version", "torch"):  # fmt: skip
        assert found[name]["status"] == "ok", found[name]
    assert not [secret for secret in secrets_of(stack) if secret in done.stdout + done.stderr]
    assert open_store(stack.environment["ENCNET_STORAGE"]).list(".doctor") == []
    assert not [key for key in open_store("s3://mlflow").list() if ".doctor" in key]


@pytest.mark.parametrize(
    ("name", "value", "faulty"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "storage"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "storage"),
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:1", "MLflow"),
        ("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1", "Jobs API"),
        ("RAY_ADDRESS", "127.0.0.1:1", "Ray"),
    ],
)
def test_what_is_broken_is_found_with_a_remedy(stack: RunningStack, name: str, value: str, faulty: str) -> None:
    done = run_encnet("doctor", "--json", "--timeout=90", environ={name: value})
    assert done.returncode == 1, done.stderr
    faults = [check for check in checks(done).values() if check["status"] == "fault"]
    assert [check["name"] for check in faults] == [faulty], faults
    assert faults[0]["remedy"]
    assert "Traceback" not in done.stderr
    assert not [secret for secret in secrets_of(stack) if secret in done.stdout + done.stderr]


def test_a_token_that_others_can_read_and_a_wrong_one_are_faults(stack: RunningStack, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("f" * 64)
    token.chmod(0o644)
    done = run_encnet("doctor", "--json", environ={"RAY_AUTH_TOKEN_PATH": str(token)})
    assert done.returncode == 1
    found = checks(done)
    assert found["token"]["remedy"] == f"chmod 600 {token}"
    assert found["Jobs API"]["detail"].endswith(" refuses the token (403)")
    assert found["Ray"]["status"] == "fault"


def test_the_cluster_s_own_view_is_a_job_away(stack: RunningStack) -> None:
    done = run_encnet("submit", "--", "doctor", "--json", "--timeout=120")
    assert json_result(done)["ok"] is True
