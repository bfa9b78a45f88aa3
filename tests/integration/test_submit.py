"""`encnet submit`: a verb as a real Ray job, its log followed, its exit code handed on."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.provenance import git_commit
from tests.integration.command import json_result, run_encnet
from tests.integration.conftest import STEPS, TINY, Trained
from tests.running_stack import RunningStack


def test_a_job_trains_as_a_driver_here_does(trained_alone: Trained, scenes: str, stack: RunningStack) -> None:
    name = "tiny-job"
    done = run_encnet(
        "submit",
        "--",
        *TINY,
        f"--data={scenes}",
        f"--name={name}",
        f"--registered-model=encnet-{name}",
        f"--optim.max-steps={STEPS}",
        "--num-workers=2",
    )
    result = json_result(done)
    assert f"run {name} on {scenes}, 2 workers\n" in done.stdout
    assert f"{name}  step {STEPS}/{STEPS}" in done.stdout
    assert result["losses"] == pytest.approx(trained_alone.result["losses"], rel=2e-3)
    assert result["model_uri"] == f"models:/encnet-{name}/1"
    run = MlflowClient(stack.environment["MLFLOW_TRACKING_URI"]).get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.source.git.commit"] == git_commit().removesuffix("-dirty")


@pytest.fixture(scope="module")
def failed(stack: RunningStack) -> tuple[int, str, str]:
    """A job whose verb refuses its arguments: exit code, output, id."""
    done = run_encnet("submit", "--", "train", "camvid_r81")
    (job_id,) = (line.split()[1] for line in done.stderr.splitlines() if line.endswith(" submitted"))
    return done.returncode, done.stdout, job_id


def test_a_job_s_exit_code_and_message_are_handed_on(failed: tuple[int, str, str]) -> None:
    code, output, _ = failed
    assert code == 2
    assert "encnet: RECIPE: 'camvid_r81': no such recipe: did you mean 'camvid_r18'?" in output.splitlines()


def test_a_job_s_record_shows_no_secret(failed: tuple[int, str, str], stack: RunningStack) -> None:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    url = f"{stack.environment['RAY_API_SERVER_ADDRESS']}/api/jobs/{failed[2]}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        record = response.read().decode()
    info = json.loads(record)
    assert info["entrypoint"] == "python -m workflows.cli train camvid_r81"
    sent = {"ENCNET_GIT_COMMIT", "PYTHONUNBUFFERED", "RAY_JOB_STOP_WAIT_TIME_S"}
    assert set(info["runtime_env"]["env_vars"]) == sent
    assert not [secret for secret in (stack.environment["AWS_SECRET_ACCESS_KEY"], token) if secret in record]
    assert info["runtime_env"]["working_dir"].startswith("gcs://")
