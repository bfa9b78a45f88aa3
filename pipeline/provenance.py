"""Where a run comes from: the code's commit and whether it was changed, versions, and what a node is made of."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_COMMIT = "mlflow.source.git.commit"
_DIRTY = "-dirty"
_PACKAGES = ("torch", "ray", "mlflow", "numpy", "opencv-python-headless", "webdataset", "boto3")
_CPU_INFO = Path("/proc/cpuinfo")


def git_commit() -> str:
    """The commit that this code is at, with -dirty after it where files differ from it; else 'unknown'.

    From the checkout, or as the submitter of a job passed it.
    """
    return os.environ.get("ENCNET_GIT_COMMIT") or _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def git_tags() -> dict[str, str]:
    """The commit as the UI links it, whether the code differs from it, and then what tells one difference from another.

    Only the names of changed files and a digest: what is in them may be nobody's business.
    """
    commit = git_commit()
    tags = {_COMMIT: commit.removesuffix(_DIRTY), "git dirty": "yes" if commit.endswith(_DIRTY) else "no"}
    if commit.endswith(_DIRTY) and "ENCNET_GIT_COMMIT" not in os.environ:
        tags["git diff digest"] = hashlib.sha256(_git("diff", "HEAD").encode()).hexdigest()[:12]
        tags["git changed files"] = ", ".join(_git("diff", "HEAD", "--name-only").split())
    return tags


def source_tags(command: str) -> dict[str, str]:
    """What the UI shows of where a run comes from: the command in brief, the user, and the code."""
    return {
        **git_tags(),
        "mlflow.source.name": command,
        "mlflow.source.type": "PROJECT",
        "mlflow.user": os.environ.get("USER", "encnet"),
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a run's numbers may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def node_facts() -> dict[str, Any]:
    """What this node is made of, and what runs on it."""
    import torch  # takes seconds, and a submitter needs only the commit

    facts: dict[str, Any] = {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda or "none",
        "versions": versions(),
    }
    if facts["gpus"]:
        facts["cudnn"] = str(torch.backends.cudnn.version())
    return facts


def _cpu_name() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent
    done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
