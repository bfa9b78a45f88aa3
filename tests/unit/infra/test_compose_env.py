"""The secrets of compose.yaml, and the settings for those who use what it starts."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from infra import compose_env
from infra.local import settings
from infra.local.errors import StackInputError


def test_secrets_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    files = compose_env.make(tmp_path)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (*files, files[0].parent)] == [0o600, 0o600, 0o700]
    before = files[0].read_bytes()
    made = compose_env.read(files[0])
    assert set(made) == set(compose_env.SECRETS)
    assert len(set(made.values())) == len(made)
    assert min(map(len, made.values())) >= 20
    assert compose_env.make(tmp_path) == files
    assert files[0].read_bytes() == before
    assert compose_env.read(compose_env.make(tmp_path / "other")[0]) != made


def test_what_a_client_needs_is_a_file_for_shells(tmp_path: Path) -> None:
    secrets_file, client_file = compose_env.make(tmp_path)
    client = settings.read(client_file)
    assert client == compose_env.client_settings(compose_env.read(secrets_file))
    known = {name for group in settings.GROUPS for name in (*group.own, *group.extra)}
    assert set(client) <= known
    assert settings.missing({"s3", "mlflow"}, client) is None
    added = settings.additions(client, dict.fromkeys(known, "the local stack's"))
    assert not {name for name in added if name.startswith(("AWS_", "MLFLOW_TRACKING", "RAY_A"))}


def test_a_secret_that_is_gone_is_named_with_what_to_do(tmp_path: Path) -> None:
    secrets_file, _ = compose_env.make(tmp_path)
    lines = [line for line in secrets_file.read_text().splitlines() if "RAY_TOKEN" not in line]
    secrets_file.write_text("\n".join([*lines, "ENCNET_RAY_TOKEN="]))
    with pytest.raises(
        StackInputError, match=r"secrets\.env: ENCNET_RAY_TOKEN is missing: remove it and run python -m"
    ):
        compose_env.make(tmp_path)


def test_the_command_prints_what_to_do_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path))
    assert compose_env.main() == 0
    shown = capsys.readouterr()
    first, second = shown.out.splitlines()
    assert first.startswith(f"docker compose --env-file {tmp_path}/compose/secrets.env -f ")
    assert Path(first.split()[5]).is_file()
    assert second == f". {tmp_path}/compose/client.env"
    made = compose_env.read(tmp_path / "compose" / "secrets.env")
    assert not [value for value in made.values() if value in shown.out + shown.err]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENCNET_HOME", str(tmp_path / "file"))
    assert compose_env.main() == 2
    assert "can't be written to (Not a directory): set it to another" in capsys.readouterr().err
