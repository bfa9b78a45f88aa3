"""`encnet jobs` before it meets a cluster: which jobs are meant, and how they are shown."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.errors import InputError
from workflows.jobs import STATUSES, Job, find_job, job_table, newest, read_job, verb_of

MINUTE_S = 60.0


def job(name: str, *, status: str = "RUNNING", started: float | None = 100.0, **fields: object) -> Job:
    values = {"verb": "stack status", "ended": None, "exit_code": None, "message": "", **fields}
    return Job(name=name, status=status, started=started, **values)  # type: ignore[arg-type]


def test_ray_s_details_are_read_with_their_milliseconds() -> None:
    from ray.dashboard.modules.job.common import JobStatus
    from ray.dashboard.modules.job.pydantic_models import JobDetails, JobType

    details = JobDetails(
        type=JobType.SUBMISSION,
        submission_id="raysubmit_1",
        status=JobStatus.FAILED,
        entrypoint="python -m workflows.cli train camvid_r18 --name 'a b'",
        message="Job entrypoint command failed\nwith exit code 2",
        start_time=1_500,
        end_time=61_500,
        driver_exit_code=2,
    )
    assert read_job(details) == Job(
        name="raysubmit_1",
        status="FAILED",
        verb="train camvid_r18 --name 'a b'",
        started=1.5,
        ended=61.5,
        exit_code=2,
        message="Job entrypoint command failed with exit code 2",
    )
    assert set(STATUSES) == {status.value for status in JobStatus}


@pytest.mark.parametrize(
    ("entrypoint", "verb"),
    [
        ("python -m workflows.cli stack status", "stack status"),
        ("encnet train camvid_r18", "train camvid_r18"),
        ("python train.py --lr 1", "python train.py --lr 1"),
        ("echo 'no end", "echo 'no end"),
        ("", ""),
    ],
)
def test_a_verb_is_told_without_what_calls_it(entrypoint: str, verb: str) -> None:
    assert verb_of(entrypoint) == verb


def began(one: Job) -> float:
    return float("inf") if one.started is None else one.started


@given(st.lists(st.tuples(st.sampled_from(STATUSES), st.none() | st.floats(0, 1e9)), max_size=12), st.integers(1, 5))
def test_the_newest_come_first_and_those_that_wait_before_all(
    found: list[tuple[str, float | None]], limit: int
) -> None:
    jobs = [job(f"job-{place}", status=status, started=started) for place, (status, started) in enumerate(found)]
    shown = newest(jobs, None, limit)
    assert len(shown) == min(limit, len(jobs))
    assert len(set(shown)) == len(shown)
    keys = [began(one) for one in shown]
    assert keys == sorted(keys, reverse=True)
    assert all(began(one) <= min(keys) for one in set(jobs) - set(shown))
    assert all(one.status == "RUNNING" for one in newest(jobs, "running", 99))


def test_a_job_is_found_by_its_name_or_the_beginning_of_it() -> None:
    known = [job("raysubmit_ab1"), job("raysubmit_ab12"), job("raysubmit_cd3")]
    assert find_job("raysubmit_ab1", known) is known[0]
    assert find_job("raysubmit_c", known) is known[2]
    with pytest.raises(
        InputError, match=r"^NAME: 'raysubmit_a': 2 jobs begin so \(raysubmit_ab1, raysubmit_ab12\): give"
    ):
        find_job("raysubmit_a", known)
    with pytest.raises(InputError, match=r"^NAME: 'raysubmit_dc3': no such job: did you mean 'raysubmit_cd3'\?$"):
        find_job("raysubmit_dc3", known)
    with pytest.raises(InputError, match=r"^NAME: 'x': no such job: the cluster has no jobs$"):
        find_job("x", [])


def test_the_table_is_for_people() -> None:
    out = io.StringIO()
    table = job_table(
        [
            job("waits", status="PENDING", started=None),
            job("runs", started=1_000.0, verb="train camvid_r18 [bold]"),
            job("failed", status="FAILED", started=0.0, ended=30.0, exit_code=2),
        ],
        now=1_000.0 + 5 * MINUTE_S,
    )
    Console(file=out, width=120).print(table)
    rows = {
        cells[0]: cells[1:]
        for line in out.getvalue().splitlines()
        if len(cells := [cell.strip() for cell in line.split("│")[1:-1]]) == 5
    }
    assert rows["waits"] == ["pending", "-", "-", "stack status"]
    assert rows["runs"][0] == "running"
    assert rows["runs"][2:] == ["5 min", "train camvid_r18 [bold]"]
    assert rows["failed"][0] == "failed (2)"
    assert rows["failed"][2] == "30 s"
