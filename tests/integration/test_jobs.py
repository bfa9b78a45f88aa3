"""`encnet jobs`: real jobs of a real cluster, listed, followed and stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.command import TIMEOUT_S, json_result, run_encnet
from tests.integration.running import wait_until
from tests.running_stack import RunningStack


@pytest.fixture(scope="module")
def ended(stack: RunningStack) -> str:
    """A job that refuses its arguments."""
    done = run_encnet("submit", "--no-follow", "--", "train", "camvid_r81")
    assert done.returncode == 0, done.stderr
    name = done.stdout.split()[-1]
    run_encnet("jobs", "logs", name, "--follow")
    return name


def listed(*options: str) -> dict[str, dict[str, object]]:
    return {job["name"]: job for job in json_result(run_encnet("jobs", "list", "--json", *options))["jobs"]}


def test_jobs_are_listed_with_what_became_of_them(ended: str) -> None:
    job = listed()[ended]
    assert (job["status"], job["exit_code"], job["verb"]) == ("FAILED", 2, "train camvid_r81")
    assert isinstance(job["started"], float)
    assert isinstance(job["ended"], float)
    assert job["started"] < job["ended"]
    assert ended not in listed("--status", "running")
    shown = run_encnet("jobs", "list")
    assert shown.returncode == 0
    assert "failed (2)" in shown.stdout


def test_a_log_is_read_by_the_beginning_of_a_name(ended: str) -> None:
    done = run_encnet("jobs", "logs", ended[:-2])
    assert done.returncode == 0
    assert "encnet: RECIPE: 'camvid_r81': no such recipe: did you mean 'camvid_r18'?" in done.stdout.splitlines()


def test_a_job_is_stopped_once(stack: RunningStack) -> None:
    name = "sleeper"
    ray = Path(sys.executable).with_name("ray")
    given = [str(ray), "job", "submit", "--no-wait", f"--submission-id={name}", "--", "sleep", "600"]
    subprocess.run(given, check=True, capture_output=True, timeout=TIMEOUT_S)
    wait_until(lambda: listed()[name]["status"] == "RUNNING", 60.0, "the job")
    done = run_encnet("jobs", "stop", name)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"job {name} stopped")
    again = run_encnet("jobs", "stop", name)
    assert (again.returncode, again.stderr) == (0, f"job {name} has ended already: stopped\n")
    assert json.dumps(listed()[name]["status"]) == '"STOPPED"'


@pytest.mark.usefixtures("ended")
def test_a_name_that_is_none_is_refused_in_one_line() -> None:
    done = run_encnet("jobs", "logs", "nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("encnet: NAME: 'nothing': no such job: ")
    assert done.stderr.count("\n") == 1
