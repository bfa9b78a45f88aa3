"""The settings file, and how it joins the user's own environment."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local import settings
from infra.local.errors import StackInputError

STACK = {
    "AWS_ACCESS_KEY_ID": "stack-key",
    "AWS_SECRET_ACCESS_KEY": "stack-secret",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:20001",
    "AWS_REGION": "us-east-1",
    "ENCNET_STORAGE": "s3://encnet",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:20002",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_ADDRESS": "127.0.0.1:20003",
    "RAY_AUTH_TOKEN_PATH": "/x/token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
S3_NAMES = {name for name in STACK if name.startswith(("AWS_", "ENCNET_"))}


def stack_file(home: Path, text: str) -> dict[str, str]:
    (home / "stack").mkdir()
    (home / "stack" / "env").write_text(text)
    return {"ENCNET_HOME": str(home)}


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,10}", fullmatch=True), st.text("aZ0 '\"$`\\;&|=#é:/-"), max_size=4))
def test_what_is_rendered_is_read_back(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("env") / "env"
    path.write_text(settings.render(values))
    assert settings.read(path) == values


def test_a_shell_reads_the_file_as_we_do(tmp_path: Path) -> None:
    path = tmp_path / "env"
    value = "a 'quoted' $HOME `id`; \"x\""
    path.write_text(settings.render({"SOME_NAME": value}))
    shell = subprocess.run(
        ["sh", "-c", f'. "{path}"; exec sh -c \'printf %s "$SOME_NAME"\''], capture_output=True, text=True, check=True
    )
    assert shell.stdout == value


def test_everything_is_added_to_an_environment_that_has_nothing() -> None:
    assert settings.additions({"HOME": "/x"}, STACK) == STACK


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "https://s3.example.org"),
        ("AWS_ACCESS_KEY_ID", "mine"),
        ("AWS_SESSION_TOKEN", "mine"),
        ("AWS_PROFILE", "work"),
    ],
)
def test_the_stacks_keys_never_mix_with_the_users_own_storage(name: str, value: str) -> None:
    added = settings.additions({name: value}, STACK)
    assert set(added) == set(STACK) - S3_NAMES


def test_a_region_or_bucket_of_the_users_own_stays_and_does_not_turn_the_stack_away() -> None:
    added = settings.additions({"AWS_REGION": "eu-west-1", "ENCNET_STORAGE": "s3://mine"}, STACK)
    assert set(added) == set(STACK) - {"AWS_REGION", "ENCNET_STORAGE"}


def test_the_users_own_cluster_is_not_given_the_stacks_token() -> None:
    added = settings.additions({"RAY_ADDRESS": "10.0.0.1:6379"}, STACK)
    assert not [name for name in added if name.startswith("RAY_")]
    assert added["MLFLOW_TRACKING_URI"] == STACK["MLFLOW_TRACKING_URI"]


def test_an_empty_variable_counts_as_not_set() -> None:
    assert settings.additions({"AWS_ENDPOINT_URL": ""}, STACK)["AWS_ENDPOINT_URL"] == STACK["AWS_ENDPOINT_URL"]


def test_a_proxy_is_told_to_leave_this_machine_alone() -> None:
    added = settings.additions({"https_proxy": "http://proxy:3128", "no_proxy": "intra.example"}, STACK)
    assert added["NO_PROXY"] == added["no_proxy"] == "intra.example,127.0.0.1,localhost"


def test_load_environment_reads_the_file_of_this_home(tmp_path: Path) -> None:
    environ = stack_file(tmp_path, settings.render(STACK))
    assert settings.load_environment(environ) == sorted(STACK)
    assert environ == {**STACK, "ENCNET_HOME": str(tmp_path)}
    assert settings.load_environment(environ) == []


def test_load_environment_without_a_stack_changes_nothing(tmp_path: Path) -> None:
    environ = {"ENCNET_HOME": str(tmp_path / "absent")}
    assert settings.load_environment(environ) == []
    assert environ == {"ENCNET_HOME": str(tmp_path / "absent")}


@pytest.mark.parametrize("line", ["not a setting", "export X", "set X=1", "export X='", "export X=1 Y=2"])
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    environ = stack_file(tmp_path, f"export A=1\n{line}\n")
    with pytest.raises(StackInputError, match=r"stack/env:2: not a line .*encnet stack up"):
        settings.load_environment(environ)


def test_missing_names_the_variable_and_the_remedy() -> None:
    message = settings.missing({"ray"}, {"AWS_ENDPOINT_URL": "x", "MLFLOW_TRACKING_URI": "y"})
    assert message == ("stack is not up: RAY_ADDRESS is not set: run `encnet stack up`, or set RAY_ADDRESS to your own")


def test_missing_says_which_variable_kept_the_stack_away() -> None:
    message = settings.missing({"mlflow"}, {"MLFLOW_TRACKING_USERNAME": "me"})
    assert message is not None
    assert "the stack's is not used because MLFLOW_TRACKING_USERNAME is set" in message


def test_amazons_own_storage_needs_no_endpoint(tmp_path: Path) -> None:
    no_files = {"AWS_CONFIG_FILE": str(tmp_path / "a"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "b")}
    assert settings.missing({"s3"}, {**no_files, "AWS_PROFILE": "work"}) is None
    assert settings.missing({"s3"}, {**no_files, "AWS_REGION": "eu-west-1"}) is None
    message = settings.missing({"s3"}, no_files)
    assert message is not None
    assert "AWS_ENDPOINT_URL is not set" in message
    (tmp_path / "b").touch()
    assert settings.missing({"s3"}, no_files) is None


def test_unknown_needs_are_refused() -> None:
    with pytest.raises(ValueError, match="redis"):
        settings.missing({"redis"}, STACK)


def test_require_tells_a_stack_that_has_gone_from_one_that_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        environ = {"RAY_ADDRESS": f"127.0.0.1:{port}", "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
        settings.require({"ray", "mlflow"}, environ)
    with pytest.raises(StackInputError, match=rf"RAY_ADDRESS: nothing listens at 127.0.0.1:{port}: run `encnet stack"):
        settings.require({"ray"}, environ)


def test_require_leaves_other_machines_to_their_clients() -> None:
    settings.require({"ray"}, {"RAY_ADDRESS": "ray://ray-head.invalid:10001"})
