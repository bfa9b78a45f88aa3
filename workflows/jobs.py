"""`encnet jobs`: the jobs that `encnet submit` gave to a Ray cluster: listed, read, stopped.

encnet jobs list
encnet jobs logs raysubmit_1a2b3c --follow
encnet jobs stop raysubmit_1a2b3c
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.errors import InputError, PipelineError, did_you_mean, first_line
from pipeline.progress import duration
from workflows.submit import STOP_WITHIN_S, address_option, connect, follow_log, log_lines, wait_for_end

_COLOURS = {"RUNNING": "cyan", "PENDING": "yellow", "SUCCEEDED": "green", "FAILED": "red", "STOPPED": "magenta"}
STATUSES = tuple(_COLOURS)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as the cluster knows it."""

    name: str
    status: str
    """One of STATUSES."""
    verb: str
    """What it runs: the arguments of `encnet`, or the whole command where that is another program."""
    started: float | None
    """Seconds since 1970; None before it has begun."""
    ended: float | None
    """None while it goes on."""
    exit_code: int | None
    message: str
    """What Ray says of it, in one line."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


@click.group()
def jobs() -> None:
    """The jobs on a Ray cluster: list, read their logs, stop them."""


@jobs.command(name="list")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False), help="Only jobs in this state.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@address_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout: times in seconds since 1970.")
def list_jobs(status: str | None, limit: int, address: str | None, as_json: bool) -> None:
    """List the jobs of the cluster, the newest first.

    \b
    encnet jobs list
    encnet jobs list --status running
    encnet jobs list --json | jq -r '.jobs[0].name'
    """
    found = newest(all_jobs(connect(address)), status, limit)
    if as_json:
        click.echo(json.dumps({"jobs": [asdict(job) for job in found]}))
    elif found:
        Console().print(job_table(found, time.time()))
    else:
        click.echo("no jobs" + (f" that are {status.lower()}" if status else ""), err=True)


@jobs.command()
@click.argument("name")
@click.option("--follow", is_flag=True, help="Show new lines as they come, until the job has ended.")
@address_option
def logs(name: str, follow: bool, address: str | None) -> None:
    """Show what the job NAME has said.

    Ctrl-C ends the showing, not the job. NAME is as `encnet jobs list` and `encnet submit` tell it; its beginning is
    enough where that is one job's only.
    """
    client = connect(address)
    job = find_job(name, all_jobs(client))
    if follow:
        follow_log(client, job.name, click.echo)
    else:
        for line in log_lines(client, job.name):
            click.echo(line)
    if job.status == "FAILED" and job.exit_code is None and job.message:
        click.echo(f"job {job.name} failed: {job.message}", err=True)


@jobs.command()
@click.argument("name")
@address_option
def stop(name: str, address: str | None) -> None:
    """Stop the job NAME and wait for its end. A run that trains writes a checkpoint first.

    Training goes on from there with `encnet train --resume`. A job that has ended already is left as it is.
    """
    client = connect(address)
    job = find_job(name, all_jobs(client))
    if job.has_ended:
        click.echo(f"job {job.name} has ended already: {job.status.lower()}", err=True)
        return
    client.stop_job(job.name)
    click.echo(f"job {job.name} is asked to stop; a run that trains writes a checkpoint first", err=True)
    info = wait_for_end(client, job.name, STOP_WITHIN_S + 10.0)
    if not info.status.is_terminal():
        raise PipelineError(f"job {job.name} still runs {STOP_WITHIN_S} s after it was asked to stop: see its log")
    click.echo(f"job {job.name} {info.status.value.lower()}", err=True)


def all_jobs(client: Any) -> list[Job]:
    """The jobs that were submitted to the cluster; drivers that joined it by themselves are none.

    Raises PipelineError when the cluster does not tell.
    """
    try:
        found = client.list_jobs()
    except (RuntimeError, OSError) as error:
        raise PipelineError(f"the cluster does not list its jobs: {first_line(error)}") from error
    return [read_job(details) for details in found if details.submission_id]


def read_job(details: Any) -> Job:
    """Ray's details of a job, which has its times in milliseconds."""
    started, ended = (None if at is None else at / 1000 for at in (details.start_time, details.end_time))
    return Job(
        name=details.submission_id,
        status=details.status.value,
        verb=verb_of(details.entrypoint),
        started=started,
        ended=ended,
        exit_code=details.driver_exit_code,
        message=" ".join((details.message or "").split())[:300],
    )


def verb_of(entrypoint: str) -> str:
    """What a job runs, without the words before it that are the same for all of ours."""
    try:
        words = shlex.split(entrypoint)
    except ValueError:  # of somebody else's shell
        return entrypoint
    if words[:3] == ["python", "-m", "workflows.cli"]:
        return shlex.join(words[3:])
    return shlex.join(words[1:]) if words[:1] == ["encnet"] else entrypoint


def newest(found: Iterable[Job], status: str | None, limit: int) -> list[Job]:
    """The jobs that began last, those that wait to begin before all, of one status where that is given."""
    wanted = [job for job in found if status is None or job.status == status.upper()]
    return sorted(wanted, key=lambda job: (job.started is None, job.started or 0.0, job.name), reverse=True)[:limit]


def find_job(name: str, known: Sequence[Job]) -> Job:
    """The job called `name`, or the only one whose name begins so. Raises InputError."""
    matching = [job for job in known if job.name == name] or [job for job in known if job.name.startswith(name)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(job.name for job in matching[:4])
        raise InputError(f"NAME: {name!r}: {len(matching)} jobs begin so ({names}): give more of the name")
    remedy = did_you_mean(name, [job.name for job in newest(known, None, 10)]) if known else "the cluster has no jobs"
    raise InputError(f"NAME: {name!r}: no such job: {remedy}")


def job_table(found: Sequence[Job], now: float) -> Table:
    """A table for people; `now` in seconds since 1970."""
    table = Table("job", "status", "started", "took", "verb")
    for job in found:
        began = "-" if job.started is None else f"{datetime.fromtimestamp(job.started):%Y-%m-%d %H:%M:%S}"
        took = "-" if job.started is None else duration(max(0.0, (job.ended or now) - job.started))
        code = f" ({job.exit_code})" if job.exit_code else ""
        table.add_row(job.name, f"[{_COLOURS[job.status]}]{job.status.lower()}{code}[/]", began, took, escape(job.verb))
    return table
