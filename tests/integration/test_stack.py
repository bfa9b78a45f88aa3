"""The local stack on its real parts: up, used, broken, repaired, down.

The shared stack is only looked at; what stops or kills parts happens on a second one, in the order of this file.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
from mlflow import MlflowClient

from infra.local import object_store, processes, ray_head, settings
from infra.local import stack as local_stack
from infra.local.errors import StackError
from infra.local.parts import PORTS
from infra.local.state import Folder
from tests.running_stack import RunningStack

ENCNET = [sys.executable, "-m", "workflows.cli"]


def stack_processes(home: Path) -> list[psutil.Process]:
    """Return every process of the stack in `home`, by the mark they carry."""
    root = Folder(home).root.resolve()
    return [process for name in PORTS for process in processes.marked(f"{root}:{name}")]


def s3_client(environment: Mapping[str, str]) -> Any:
    return boto3.session.Session(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    ).client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name=environment["AWS_REGION"])


def call_jobs_api(environment: Mapping[str, str], token: str | None, body: Any = None, path: str = "") -> Any:
    """Return status and decoded body of a call to Ray's Jobs API."""
    connection = http.client.HTTPConnection(urlsplit(environment["RAY_API_SERVER_ADDRESS"]).netloc, timeout=30)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    method = "GET" if body is None else "POST"
    connection.request(method, f"/api/jobs/{path}", None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text) if response.status == 200 else text.decode()


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"did not happen within {seconds:.0f} s"
        time.sleep(0.2)
    return value


def run_encnet(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environ = os.environ if home is None else {**os.environ, "ENCNET_HOME": str(home)}
    return subprocess.run([*ENCNET, *arguments], env=environ, capture_output=True, text=True, timeout=240)


def pids(home: Path) -> dict[str, int | None]:
    return {part.name: part.pid for part in local_stack.status(home)}


def test_a_stock_s3_client_writes_and_reads(stack: RunningStack) -> None:
    s3 = s3_client(stack.environment)
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} >= {"encnet", "mlflow"}
    body = os.urandom(6 * 2**20)
    s3.put_object(Bucket="encnet", Key="test_stack/blob", Body=body)
    ranged = s3.get_object(Bucket="encnet", Key="test_stack/blob", Range="bytes=5000000-5000099")
    assert ranged["Body"].read() == body[5_000_000:5_000_100]
    s3.delete_object(Bucket="encnet", Key="test_stack/blob")


def test_wrong_or_no_keys_get_nothing(stack: RunningStack) -> None:
    wrong = s3_client({**stack.environment, "AWS_SECRET_ACCESS_KEY": "wrong"})
    with pytest.raises(wrong.exceptions.ClientError, match="SignatureDoesNotMatch"):
        wrong.list_objects_v2(Bucket="encnet")
    connection = http.client.HTTPConnection(urlsplit(stack.environment["AWS_ENDPOINT_URL"]).netloc, timeout=30)
    connection.request("GET", "/encnet?list-type=2")
    assert connection.getresponse().status == 403
    connection.close()


def test_mlflow_keeps_artifacts_in_the_object_store(stack: RunningStack, tmp_path: Path) -> None:
    client = MlflowClient(stack.environment["MLFLOW_TRACKING_URI"])
    experiment = client.create_experiment("test_stack")
    run = client.create_run(experiment)
    client.log_metric(run.info.run_id, "loss", 0.5, step=3)
    (tmp_path / "note.txt").write_text("kept")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    client.set_terminated(run.info.run_id)
    assert client.get_metric_history(run.info.run_id, "loss")[0].step == 3
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    key = f"{experiment}/{run.info.run_id}/artifacts/note.txt"
    assert s3_client(stack.environment).get_object(Bucket="mlflow", Key=key)["Body"].read() == b"kept"


def test_mlflow_refuses_a_host_name_that_is_not_its_own(stack: RunningStack) -> None:
    connection = http.client.HTTPConnection(urlsplit(stack.environment["MLFLOW_TRACKING_URI"]).netloc, timeout=30)
    connection.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 403
    connection.close()


def test_ray_wants_its_token(stack: RunningStack) -> None:
    token = Path(stack.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert call_jobs_api(stack.environment, None)[0] == 401
    assert call_jobs_api(stack.environment, "0" * 64)[0] in (401, 403)
    status, jobs = call_jobs_api(stack.environment, token)
    assert (status, type(jobs)) == (200, list)  # of whatever ran on the stack before


def test_a_job_reaches_the_whole_stack_with_nothing_sent_along(stack: RunningStack) -> None:
    token = Path(stack.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    code = (
        "import boto3, ray; ray.init(); "
        "get = lambda: boto3.client('s3').put_object(Bucket='encnet', Key='test_stack/job', Body=b'1'); "
        "ray.get(ray.remote(get).remote()); print('node', ray.util.get_node_ip_address())"
    )
    status, job = call_jobs_api(stack.environment, token, {"entrypoint": f'python -c "{code}"'})
    assert status == 200
    path = job["submission_id"]

    def ended() -> Any:
        _, info = call_jobs_api(stack.environment, token, path=path)
        return info if info["status"] in ("SUCCEEDED", "FAILED", "STOPPED") else None

    info = wait_for(ended, seconds=120)
    _, logs = call_jobs_api(stack.environment, token, path=f"{path}/logs")
    assert info["status"] == "SUCCEEDED", logs["logs"]
    assert "node 127.0.0.1" in logs["logs"]
    assert s3_client(stack.environment).head_object(Bucket="encnet", Key="test_stack/job")["ContentLength"] == 1


def test_everything_listens_and_talks_on_the_loopback_interface_only(stack: RunningStack) -> None:
    ours = {process.pid for process in stack_processes(stack.home)}
    connections = [each for each in psutil.net_connections("inet") if each.pid in ours]
    listening = [each for each in connections if each.status == psutil.CONN_LISTEN]
    assert len(listening) >= sum(len(names) for names in PORTS.values())
    addresses = {end.ip for each in connections for end in (each.laddr, each.raddr) if end}
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def test_secrets_are_in_private_files_and_nowhere_else(stack: RunningStack) -> None:
    folder = Folder(stack.home)
    secrets = (stack.environment["AWS_SECRET_ACCESS_KEY"], ray_head.token(folder))
    shown = [run_encnet("stack", *command).stdout for command in (["status"], ["status", "--json"], ["up"])]
    shown += [" ".join(process.cmdline()) for process in stack_processes(stack.home)]
    shown += [path.read_text(errors="replace") for path in folder.log("x").parent.iterdir()]
    shown += [
        path.read_text(errors="replace") for path in folder.part("ray").glob("session_*/logs/*") if path.is_file()
    ]
    assert not [text[:200] for text in shown if any(secret in text for secret in secrets)]
    assert folder.root.stat().st_mode & 0o777 == 0o700
    private = (folder.state_file, folder.environment_file, ray_head.token_file(folder))
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


def test_two_more_ups_at_once_change_nothing(stack: RunningStack) -> None:
    before = pids(stack.home)
    racers = [
        subprocess.Popen([*ENCNET, "stack", "up", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for racer in racers:
        stdout, stderr = racer.communicate(timeout=240)
        assert racer.returncode == 0, stderr
        assert {name: part["pid"] for name, part in json.loads(stdout)["parts"].items()} == before
        assert stderr.count("already up") == 3
    assert pids(stack.home) == before


def test_the_stack_is_nobodys_child(stack: RunningStack) -> None:
    family = {child.pid for child in psutil.Process().children(recursive=True)}
    assert not family & set(pids(stack.home).values())


@pytest.fixture(scope="module")
def own_home() -> Iterator[Path]:
    """A state folder for a second stack, which the tests below bring up, break and take down in turn."""
    home = Path(tempfile.mkdtemp(prefix="encnet-own-", dir="/tmp"))
    try:
        yield home
    finally:
        Folder(home).state_file.unlink(missing_ok=True)
        local_stack.down(home, delete_data=True)
        shutil.rmtree(home, ignore_errors=True)


def test_a_part_that_does_not_come_up_is_named_with_its_log_and_nothing_is_left(own_home: Path) -> None:
    folder = Folder(own_home)
    folder.create()
    database = folder.part("mlflow") / "mlflow.db"
    database.write_bytes(b"not a database" * 1000)
    with pytest.raises(StackError, match=r"^MLflow: ended while starting \(.*\): see .*/logs/mlflow\.log$"):
        local_stack.up(own_home)
    assert stack_processes(own_home) == []
    assert not folder.environment_file.exists()
    database.unlink()


def test_an_interrupted_up_leaves_nothing_half_started(own_home: Path) -> None:
    up = subprocess.Popen(
        [*ENCNET, "stack", "up"],
        env={**os.environ, "ENCNET_HOME": str(own_home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    root = Folder(own_home).root.resolve()
    wait_for(lambda: processes.marked(f"{root}:ray"))
    up.send_signal(signal.SIGINT)
    _, stderr = up.communicate(timeout=120)
    assert up.returncode == 130, stderr
    assert stack_processes(own_home) == []


def test_killed_parts_are_restarted_alone_and_lose_nothing(own_home: Path) -> None:
    local_stack.up(own_home, num_cpus=1)
    environment = settings.read(Folder(own_home).environment_file)
    before = pids(own_home)
    body = os.urandom(2**20)
    s3_client(environment).put_object(Bucket="encnet", Key="kept", Body=body)
    run = MlflowClient(environment["MLFLOW_TRACKING_URI"]).create_run("0")
    for name in ("s3", "mlflow"):
        # Of MLflow only the first process: the server proper is left over and still has the port.
        os.kill(before[name] or 0, signal.SIGKILL)
    wait_for(lambda: sum(part.problem is None for part in local_stack.status(own_home)) == 1)

    after = {part.name: part.pid for part in local_stack.up(own_home)}

    assert after["ray"] == before["ray"]
    assert before["s3"] != after["s3"]
    assert before["mlflow"] != after["mlflow"]
    assert settings.read(Folder(own_home).environment_file) == environment
    assert s3_client(environment).get_object(Bucket="encnet", Key="kept")["Body"].read() == body
    assert MlflowClient(environment["MLFLOW_TRACKING_URI"]).get_run(run.info.run_id).info.status == "RUNNING"


def test_left_overs_of_a_killed_ray_are_cleared_and_data_outlives_new_ports(own_home: Path) -> None:
    folder = Folder(own_home)
    kept = s3_client(settings.read(folder.environment_file)).head_object(Bucket="encnet", Key="kept")
    ray_pid = pids(own_home)["ray"]
    os.kill(ray_pid or 0, signal.SIGKILL)
    result = run_encnet("stack", "down", home=own_home)
    assert result.returncode == 0, result.stderr
    assert stack_processes(own_home) == []
    assert not folder.environment_file.exists()
    s3_port = folder.load().part("s3").ports["s3"]

    with socket.create_server(("127.0.0.1", s3_port)):
        result = run_encnet("stack", "up", home=own_home)
        assert result.returncode == 2
        assert f"object store: port {s3_port} has been taken by pid {os.getpid()}" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        result = run_encnet("stack", "up", "--new-ports", "--json", home=own_home)
    assert result.returncode == 0, result.stderr

    environment = settings.read(folder.environment_file)
    s3 = s3_client(environment)
    assert not environment["AWS_ENDPOINT_URL"].endswith(f":{s3_port}")
    assert s3.head_object(Bucket="encnet", Key="kept")["ETag"] == kept["ETag"]
    # New volumes must not take the numbers of old ones now that the master starts from nothing.
    s3.create_bucket(Bucket="another")
    for number in range(20):
        s3.put_object(Bucket="another", Key=str(number), Body=os.urandom(1000))
    assert len(s3.get_object(Bucket="encnet", Key="kept")["Body"].read()) == 2**20


def test_down_deletes_data_only_when_told_to(own_home: Path) -> None:
    keys = object_store.keys(Folder(own_home))
    refused = run_encnet("stack", "down", "--delete-data", home=own_home)
    assert refused.returncode == 2
    assert keys == object_store.keys(Folder(own_home))
    result = run_encnet("stack", "down", "--delete-data", "--yes", home=own_home)
    assert result.returncode == 0, result.stderr
    assert not Folder(own_home).root.exists()
    assert stack_processes(own_home) == []
