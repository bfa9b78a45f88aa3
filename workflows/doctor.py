"""`encnet doctor`: whether all that a run needs is there and works, a line each, with a remedy for each fault."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from infra.local import settings
from pipeline.doctor import (
    Finding,
    fault,
    has_fault,
    judge_jobs,
    judge_machine,
    judge_mlflow,
    judge_packages,
    judge_ray,
    judge_secret,
    judge_storage,
    ok,
)
from pipeline.doctor_probes import TOKEN_FILE, gather

_PACKAGE = "encnet-pipeline"
_CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
_MARKS = {"ok": ("ok     ", "green"), "warning": ("warning", "yellow"), "fault": ("FAULT  ", "bold red")}
_JUDGES: dict[str, Callable[[Any], Iterable[Finding]]] = {
    "storage": judge_storage,
    "mlflow": judge_mlflow,
    "jobs": judge_jobs,
    "ray": judge_ray,
    "machine": judge_machine,
}
_TITLES = {"storage": "storage", "mlflow": "MLflow", "jobs": "Jobs API", "ray": "Ray", "machine": "this machine"}
_REMEDIES = {
    "storage": "check AWS_ENDPOINT_URL, the keys and ENCNET_STORAGE",
    "mlflow": "check MLFLOW_TRACKING_URI and the server's log",
    "jobs": "check RAY_API_SERVER_ADDRESS",
    "ray": "check RAY_ADDRESS, the token and the cluster's log",
    "machine": "see what `python -c 'import torch'` says",
}


@click.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1.0),
    default=60.0,
    show_default=True,
    help="Seconds after which a part that does not answer counts as at fault.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def doctor(timeout_s: float, as_json: bool) -> None:
    """Check settings, token, storage, MLflow, Ray, versions, GPUs and room; say what to do about each fault.

    \b
    encnet doctor
    encnet submit -- doctor        the same, as the cluster's jobs see it
    encnet doctor --json | jq '.checks[] | select(.status != "ok")'

    What is written for it is deleted again. Exit code 1 when anything is at fault, 0 when there are only warnings.
    """
    console = Console(stderr=as_json)
    found: list[Finding] = []
    with console.status("looking ...") as status:
        for finding in examine(timeout_s, lambda what: status.update(f"looking at {what} ...")):
            found.append(finding)
            show(finding, console)
    if as_json:
        click.echo(json.dumps({"ok": not has_fault(found), "checks": [asdict(finding) for finding in found]}))
    if has_fault(found):
        sys.exit(1)


def examine(timeout_s: float, tell: Callable[[str], object]) -> Iterator[Finding]:
    """Everything, in the order in which one thing rests on another; `tell` what is waited for."""
    yield from look_at_settings(os.environ)
    tell("packages")
    pins = read_pins(_CONSTRAINTS.read_text()) if _CONSTRAINTS.exists() else {}
    yield judge_packages(installed_packages(), pins)
    names = probes_for(os.environ)
    tell(_TITLES[names[0]])
    for place, (name, facts) in enumerate(gather(names, timeout_s)):
        yield from judge(name, facts)
        tell(" and ".join(_TITLES[left] for left in names[place + 1 :]))


def judge(name: str, facts: Any) -> Iterator[Finding]:
    """What is to be thought of what a probe gave: its facts, or the text of a fault."""
    if isinstance(facts, str):
        yield fault(_TITLES[name], facts, _REMEDIES[name])
    else:
        yield from _JUDGES[name](facts)


def look_at_settings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the environment says where the parts are, and whether only the user can read what is secret."""
    file = settings.environment_file(environ)
    if file.exists():
        yield judge_secret("settings", str(file), _mode(file))
    else:
        yield ok("settings", "of the environment: no local stack is up")
    for need, title in (("s3", "storage"), ("mlflow", "MLflow"), ("ray", "Ray")):
        is_elsewhere = need == "s3" and _stores_in_folder(environ)
        submits_only = need == "ray" and environ.get("RAY_API_SERVER_ADDRESS")
        if (line := settings.missing({need}, environ)) and not (is_elsewhere or submits_only):
            yield fault(title, line)
    if not environ.get("RAY_ADDRESS") and environ.get("RAY_API_SERVER_ADDRESS"):
        detail = "RAY_ADDRESS is not set: this machine submits jobs, and sees nothing of the nodes"
        yield Finding(name="Ray", status="warning", detail=detail, remedy="encnet submit -- doctor")
    yield from look_at_token(environ)


def look_at_token(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether there is a token for Ray where one is asked for, and who can read its file."""
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    if environ.get("RAY_AUTH_TOKEN"):
        yield ok("token", "in RAY_AUTH_TOKEN")
    elif environ.get("RAY_AUTH_TOKEN_PATH") or path.exists():
        yield judge_secret("token", str(path), _mode(path))
    elif environ.get("RAY_AUTH_MODE") == "token":
        yield judge_secret("token", str(path), None)
    elif environ.get("RAY_ADDRESS") or environ.get("RAY_API_SERVER_ADDRESS"):
        detail = "none: whoever reaches the cluster can run code on it"
        yield Finding(name="token", status="warning", detail=detail, remedy="start Ray with RAY_AUTH_MODE=token")


def probes_for(environ: Mapping[str, str]) -> list[str]:
    """The probes of what the environment names."""
    names = ["storage"] if settings.missing({"s3"}, environ) is None or _stores_in_folder(environ) else []
    names += ["mlflow"] if settings.missing({"mlflow"}, environ) is None else []
    names += ["jobs"] if environ.get("RAY_API_SERVER_ADDRESS") else []
    names += ["ray"] if environ.get("RAY_ADDRESS") else []
    return [*names, "machine"]


def _stores_in_folder(environ: Mapping[str, str]) -> bool:
    storage = environ.get("ENCNET_STORAGE", "")
    return bool(storage) and "://" not in storage


def _mode(path: Path) -> int | None:
    return stat.S_IMODE(path.stat().st_mode) if path.is_file() else None


def installed_packages() -> dict[str, str | None]:
    """The packages that this one needs, with their versions, None for one that is missing."""
    found: dict[str, str | None] = {}
    try:
        required = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:  # a job's copy of the code: its image has what it needs, or not
        required = ["torch", "ray", "mlflow", "boto3", "webdataset", "safetensors"]
    for requirement in required:
        name = re.match(r"[\w.-]+", requirement)
        if name is None or "extra ==" in requirement:
            continue
        try:
            found[name[0]] = importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            found[name[0]] = None
    return found


def read_pins(text: str) -> dict[str, str]:
    """Package -> version, of a constraints file."""
    pins = (line.partition("#")[0].partition("==") for line in text.splitlines())
    return {name.strip(): version.strip() for name, _, version in pins if version}


def show(finding: Finding, console: Console) -> None:
    """Print a line, and another one with the remedy where there is one."""
    mark, colour = _MARKS[finding.status]
    line = Text.assemble((mark, colour), f"  {finding.name:<17}", finding.detail)
    console.print(line, soft_wrap=True, highlight=False)
    if finding.remedy:
        console.print(Text(f"{'':28}{finding.remedy}"), soft_wrap=True, highlight=False)
