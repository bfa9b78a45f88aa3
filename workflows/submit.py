"""`encnet submit -- VERB ...`: any verb as a Ray job, its log followed, its exit code handed on."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from infra.local import settings
from pipeline.environment import overridden
from pipeline.errors import InputError, PipelineError, first_line

_PACKAGES = ("encnet", "pipeline", "workflows", "infra")
_ADDRESS = "RAY_API_SERVER_ADDRESS"
_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
_NOISY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_RAYS_OWN_LINE = re.compile(r"\S+ \S+\tINFO job_manager\.py:\d+ -- ")
STOP_WITHIN_S = 120
"""How long a job that is stopped may take to write its checkpoint before it is killed."""
_ROOT = Path(__file__).resolve().parent.parent
address_option = click.option(
    "--address", metavar="URL", help="The cluster's dashboard; default: $RAY_API_SERVER_ADDRESS."
)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("verb", nargs=-1, type=click.UNPROCESSED, required=True)
@address_option
@click.option("--no-follow", is_flag=True, help="Submit, print the job's id and return.")
def submit(verb: tuple[str, ...], address: str | None, no_follow: bool) -> None:
    """Run any verb as a Ray job and follow its log.

    \b
    encnet submit -- train camvid_r18 --data s3://encnet/data/camvid
    encnet submit --address https://cluster:8265 -- evaluate models:/encnet-camvid@candidate --data ...

    The job runs this installation's code with the credentials of the cluster's own environment: none travel with it.
    Its exit code is this command's. Ctrl-C stops the job; a run that trains writes a checkpoint first.
    """
    client = connect(address)
    job_id = submit_job(client, verb)
    click.echo(f"job {job_id} submitted", err=True)
    if no_follow:
        click.echo(job_id)
    else:
        sys.exit(follow_job(client, job_id, click.echo))


def connect(address: str | None = None) -> Any:
    """A client of the Jobs API. Raises InputError where no cluster is named or it does not answer."""
    url = address or os.environ.get(_ADDRESS)
    if not url:
        settings.require({"ray"})
        raise InputError("address: give --address http://HOST:8265, or set RAY_API_SERVER_ADDRESS to it")
    if not url.startswith(("http://", "https://")):
        raise InputError(f"address: {url!r}: write the dashboard's address as http://HOST:8265")
    with overridden(_contact(url)):
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in _NOISY:  # their modules set the level when they are imported
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            return JobSubmissionClient(url)
        except (ConnectionError, RuntimeError, AuthenticationError) as error:
            raise InputError(
                f"address: {url!r} does not answer: run 'encnet stack up', or check the address and the token "
                f"({first_line(error)})"
            ) from None


def _contact(url: str) -> dict[str, str]:
    """The settings to contact `url` with, to be in place before Ray is imported: it looks at them then.

    Ray prefers the address in the environment to the one it is given. The local stack's token stays here when `url`
    is another cluster.
    """
    stack = settings.read(settings.environment_file())
    contact = {_ADDRESS: url}
    if url != stack.get(_ADDRESS) and os.environ.get(_TOKEN_PATH, "") == stack.get(_TOKEN_PATH):
        contact["RAY_AUTH_MODE"] = "disabled"
    return contact


def submit_job(client: Any, verb: Sequence[str]) -> str:
    """Submit `encnet VERB ...` and return the job's id."""
    from pipeline.provenance import git_commit

    with tempfile.TemporaryDirectory(prefix="encnet-job-") as folder:
        stage(Path(folder))
        return str(
            client.submit_job(
                entrypoint=shlex.join(["python", "-m", "workflows.cli", *verb]),
                runtime_env={
                    "working_dir": folder,
                    "env_vars": {
                        "ENCNET_GIT_COMMIT": git_commit(),
                        "PYTHONUNBUFFERED": "1",
                        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WITHIN_S),
                    },
                },
                metadata={"verb": " ".join(verb[:2])},
            )
        )


def stage(folder: Path) -> None:
    """Copy what a job needs into `folder`: the packages, nothing else."""
    for package in _PACKAGES:
        shutil.copytree(_ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def follow_job(client: Any, job_id: str, show: Callable[[str], object]) -> int:
    """Show each line of the job's log as it comes; return the job's exit code.

    An interrupt stops the job, shows what it still has to say and is raised again; a second one does not wait for that.
    """
    shown: list[str] = []

    def keep(line: str) -> None:
        shown.append(line)
        show(line)

    try:
        follow_log(client, job_id, keep)
    except KeyboardInterrupt:
        client.stop_job(job_id)
        click.echo(f"job {job_id} is asked to stop; a run that trains writes a checkpoint first", err=True)
        wait_for_end(client, job_id, STOP_WITHIN_S)
        for line in log_lines(client, job_id)[len(shown) :]:
            show(line)
        raise
    return _exit_code(client, job_id)


def log_lines(client: Any, job_id: str) -> list[str]:
    """What the job has said by now."""
    return [line for line in client.get_job_logs(job_id).splitlines() if not _RAYS_OWN_LINE.match(line)]


def follow_log(client: Any, job_id: str, show: Callable[[str], object]) -> None:
    """Show each line of the job's log, from its beginning, as it comes, until the job has ended."""
    asyncio.run(_follow(client, job_id, show))


async def _follow(client: Any, job_id: str, show: Callable[[str], object]) -> None:
    rest = ""
    async for text in client.tail_job_logs(job_id):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            if not _RAYS_OWN_LINE.match(line):
                show(line)
    if rest:
        show(rest)


def wait_for_end(client: Any, job_id: str, within_s: float) -> Any:
    """What is known of a job once it has ended, or after `within_s`."""
    until = time.monotonic() + within_s
    while not (info := client.get_job_info(job_id)).status.is_terminal() and time.monotonic() < until:
        time.sleep(0.2)
    return info


def _exit_code(client: Any, job_id: str) -> int:
    """The job's own exit code. Raises PipelineError for a job that never got as far as having one."""
    info = wait_for_end(client, job_id, within_s=10.0)  # the log ends a moment before the job is marked ended
    if info.status.value == "SUCCEEDED":
        return 0
    if info.driver_exit_code is None:
        raise PipelineError(f"job {job_id} {info.status.lower()}: {' '.join((info.message or '').split())[-300:]}")
    return int(info.driver_exit_code)
