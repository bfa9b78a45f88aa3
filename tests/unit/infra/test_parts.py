"""How each part is started: decided without starting any."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from infra.local import mlflow_server, object_store, ports, ray_head
from infra.local.errors import StackInputError
from infra.local.parts import PORTS, Part, base_environ, http_problem
from infra.local.state import Folder

USER = {
    "HOME": "/home/user",
    "AWS_PROFILE": "work",
    "AWS_SECRET_ACCESS_KEY": "users-own",
    "MLFLOW_RUN_ID": "1234",
    "RAY_ADDRESS": "10.0.0.1:6379",
    "RAY_memory_usage_threshold": "0.9",
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "home")
    made.create()
    object_store.make_keys(made)
    ray_head.make_token(made)
    return made


def plan(folder: Folder) -> list[Part]:
    chosen = {name: ports.choose(names) for name, names in PORTS.items()}
    s3_settings = object_store.settings(chosen["s3"], object_store.keys(folder))
    return [
        object_store.part(folder, chosen["s3"], USER),
        mlflow_server.part(folder, chosen["mlflow"], s3_settings, USER),
        ray_head.part(folder, chosen["ray"], folder.part("ray"), s3_settings, 2, USER),
    ]


def test_no_secret_is_on_a_command_line_or_in_a_representation(folder: Folder) -> None:
    keys = object_store.keys(folder)
    secrets = (keys.access_key, keys.secret_key, ray_head.token(folder))
    shown = [*(word for part in plan(folder) for word in part.command), repr(keys)]
    assert not [word for word in shown if any(secret in word for secret in secrets)]


def test_every_address_is_on_the_loopback_interface(folder: Folder) -> None:
    for part in plan(folder):
        assert part.address.startswith("http://127.0.0.1:")
        assert any("127.0.0.1" in word for word in part.command)
        assert not any("0.0.0.0" in word for word in part.command)


def test_the_users_own_storage_tracking_and_cluster_do_not_reach_the_parts(folder: Folder) -> None:
    for part in plan(folder):
        assert "users-own" not in part.environ.values()
        assert not {"AWS_PROFILE", "MLFLOW_RUN_ID", "RAY_ADDRESS"} & set(part.environ)
        assert part.environ["RAY_memory_usage_threshold"] == "0.9"
        assert part.environ["ENCNET_HOME"] == str(folder.home)


def test_workers_find_this_pythons_programs_first() -> None:
    first = base_environ({"PATH": "/usr/bin"}, Path("/x"))["PATH"].split(os.pathsep)[0]
    assert (Path(first) / "ray").exists()


def test_keys_and_token_are_made_once_private_and_hard_to_guess(folder: Folder) -> None:
    keys, token = object_store.keys(folder), ray_head.token(folder)
    object_store.make_keys(folder)
    ray_head.make_token(folder)
    assert (object_store.keys(folder), ray_head.token(folder)) == (keys, token)
    assert len(keys.secret_key) >= 40
    assert len(token) == 64
    for path in (folder.part("s3") / "identities.json", ray_head.token_file(folder)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{}", '{"identities": [{"credentials": []}]}'])
def test_damaged_keys_are_named_with_the_remedy(folder: Folder, text: str) -> None:
    (folder.part("s3") / "identities.json").write_text(text)
    with pytest.raises(StackInputError, match=r"identities\.json: missing or damaged: remove it and run"):
        object_store.keys(folder)


def test_a_lost_token_is_named_with_the_remedy(folder: Folder) -> None:
    ray_head.token_file(folder).unlink()
    with pytest.raises(StackInputError, match=r"auth_token: missing or empty: remove it and run"):
        ray_head.token(folder)


def test_a_port_where_nobody_answers_is_said_to_be_silent() -> None:
    (port,) = ports.choose(["nobody"]).values()
    assert http_problem(port, "/x") == f"http://127.0.0.1:{port}/x does not answer (ConnectionRefusedError)"


def test_only_the_last_session_of_ray_is_kept(folder: Folder) -> None:
    names = [f"session_2026-01-0{day}_00-00-00_000000_1" for day in (1, 2, 3)]
    for name in names:
        (folder.part("ray") / name / "logs").mkdir(parents=True)
    (folder.part("ray") / "session_latest").symlink_to(names[2])
    plan(folder)[2].prepare()
    left = {path.name for path in folder.part("ray").iterdir()}
    assert left == {names[2], "session_latest", "auth_token"}
