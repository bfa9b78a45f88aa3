"""`encnet doctor`: what it reads from the environment, what it prints, and its exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from infra.local import settings
from workflows import cli, doctor

EVERYTHING = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:2",
    "RAY_ADDRESS": "127.0.0.1:3",
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:4",
}


@pytest.fixture(autouse=True)
def no_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of anybody's stack or cloud."""
    for name in {name for group in settings.GROUPS for name in (*group.own, *group.extra)}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setitem(cli._VERBS, "doctor", ("workflows.doctor:doctor", ""))
    monkeypatch.setattr(sys, "argv", ["encnet", "doctor", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def found(environ: dict[str, str]) -> dict[str, str]:
    return {one.name: one.status for one in doctor.look_at_settings({"ENCNET_HOME": "/nowhere", **environ})}


def test_a_machine_without_settings_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "--json", "--timeout", "300") == 1
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["ok"] is False
    checks = {check["name"]: check for check in result["checks"]}
    assert {name for name, check in checks.items() if check["status"] == "fault"} == {"storage", "MLflow", "Ray"}
    assert all("run `encnet stack up`" in checks[name]["detail"] for name in ("storage", "MLflow", "Ray"))
    assert {"torch", "disk", "packages"} <= checks.keys()
    assert "FAULT    storage " in shown.err


def test_runs_kept_in_a_folder_need_no_s3(tmp_path: Path) -> None:
    environ = {"ENCNET_STORAGE": str(tmp_path)}
    assert "storage" not in found(environ)
    assert doctor.probes_for(environ) == ["storage", "machine"]


def test_each_part_that_is_named_is_probed() -> None:
    assert doctor.probes_for(EVERYTHING) == ["storage", "mlflow", "jobs", "ray", "machine"]
    assert "fault" not in found({**EVERYTHING, "RAY_AUTH_TOKEN": "x"}).values()


def test_a_machine_that_only_submits_is_no_fault() -> None:
    environ = {name: value for name, value in EVERYTHING.items() if name != "RAY_ADDRESS"}
    assert found({**environ, "RAY_AUTH_TOKEN": "x"})["Ray"] == "warning"
    assert doctor.probes_for(environ) == ["storage", "mlflow", "jobs", "machine"]


def test_a_token_is_looked_at_and_not_shown(tmp_path: Path) -> None:
    token = tmp_path / "auth_token"
    environ = {**EVERYTHING, "RAY_AUTH_TOKEN_PATH": str(token)}
    assert found(environ)["token"] == "fault"
    token.write_text("secret")
    token.chmod(0o644)
    (finding,) = doctor.look_at_token(environ)
    assert (finding.status, finding.remedy) == ("fault", f"chmod 600 {token}")
    token.chmod(0o600)
    assert found(environ)["token"] == "ok"
    (finding,) = doctor.look_at_token({**EVERYTHING, "RAY_AUTH_TOKEN": "secret"})
    assert "secret" not in finding.detail
    assert found({**EVERYTHING, "RAY_AUTH_MODE": "token"})["token"] == "fault"
    assert found(EVERYTHING)["token"] == "warning"


def test_the_packages_that_are_needed_are_known() -> None:
    installed = doctor.installed_packages()
    assert {"torch", "ray", "mlflow"} <= installed.keys()
    assert "pytest" not in installed
    assert all(installed.values())
    pins = doctor.read_pins("torch==2.13.0\n# a remark\nray==2.60.0  # why\n\n")
    assert pins == {"torch": "2.13.0", "ray": "2.60.0"}


def test_a_fault_of_a_probe_has_a_remedy() -> None:
    assert set(doctor._REMEDIES) == set(doctor._JUDGES) == set(doctor._TITLES)
    for name in doctor._JUDGES:
        (finding,) = doctor.judge(name, "no answer within 9 s")
        assert (finding.status, finding.detail) == ("fault", "no answer within 9 s")
        assert finding.remedy
