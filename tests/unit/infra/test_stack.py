"""What the stack refuses, and what it says where nothing runs."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from infra.local import ports, stack
from infra.local.errors import StackInputError
from infra.local.parts import PORTS
from infra.local.processes import ProcessId
from infra.local.state import Folder, State
from workflows.stack import stack as command


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def remembered(home: Path, *, running: tuple[str, ...] = ()) -> State:
    """Save and return a state in which every part has ports, and this process plays those `running`."""
    folder = Folder(home)
    folder.create()
    state = State(num_cpus=2)
    for name, names in PORTS.items():
        taken = [port for part in state.parts.values() for port in part.ports.values()]
        state.part(name).ports = ports.choose(names, taken)
        if name in running:
            state.part(name).process = ProcessId(pid=os.getpid(), created=psutil.Process().create_time())
    folder.save(state)
    return state


def test_status_of_a_stack_never_started_writes_nothing(home: Path) -> None:
    assert [part.problem for part in stack.status(home)] == ["never started"] * 3
    assert not home.exists()


def test_down_of_a_stack_never_started_writes_nothing(home: Path) -> None:
    events: list[tuple[str, str]] = []
    stack.down(home, watch=lambda title, event, seconds, detail: events.append((title, event)))
    assert events == [("object store", "not running"), ("MLflow", "not running"), ("Ray", "not running")]
    assert not home.exists()


def test_a_remembered_port_taken_by_another_is_named_with_its_holder(home: Path) -> None:
    state = remembered(home)
    port = state.part("mlflow").ports["http"]
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(
            StackInputError, match=rf"MLflow: port {port} has been taken by pid {os.getpid()} .*up --new-ports`"
        ),
    ):
        stack.up(home)


def test_cpus_of_a_running_ray_can_not_be_changed(home: Path) -> None:
    remembered(home, running=("ray",))
    with pytest.raises(StackInputError, match=r"--num-cpus: 4: Ray is already up with 2: run `encnet stack down`"):
        stack.up(home, num_cpus=4)


def test_new_ports_are_not_given_to_a_part_others_rely_on(home: Path) -> None:
    remembered(home, running=("s3", "mlflow"))
    with pytest.raises(StackInputError, match=r"--new-ports: object store, MLflow is up and known by the old ones"):
        stack.up(home, new_ports=True)


def test_ray_needs_a_cpu(home: Path) -> None:
    with pytest.raises(StackInputError, match=r"--num-cpus: 0: Ray needs at least 1"):
        stack.up(home, num_cpus=0)


def test_the_command_tells_a_script_that_nothing_is_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCNET_HOME", str(home))
    result = CliRunner().invoke(command, ["status", "--json"])
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["up"] is False
    assert {name: part["problem"] for name, part in answer["parts"].items()} == dict.fromkeys(PORTS, "never started")


def test_data_is_not_deleted_unasked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCNET_HOME", str(home))
    remembered(home)
    result = CliRunner().invoke(command, ["down", "--delete-data"])
    assert isinstance(result.exception, StackInputError)
    assert "say --yes" in str(result.exception)
    assert Folder(home).state_file.exists()


def test_data_is_deleted_when_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCNET_HOME", str(home))
    remembered(home)
    result = CliRunner().invoke(command, ["down", "--delete-data", "--yes"])
    assert result.exit_code == 0, result.output
    assert not home.exists()
