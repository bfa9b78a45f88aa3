"""The `encnet` command as a person or a script runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENCNET = (sys.executable, "-m", "workflows.cli")
TIMEOUT_S = 400


def run_encnet(
    *arguments: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `encnet ARGUMENTS` to its end, whatever its exit code; `environ` is added to this process's."""
    settings = {**os.environ, **(environ or {})}
    return subprocess.run(
        [*ENCNET, *arguments], env=settings, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S
    )


def json_result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The object on the last line of a successful command's stdout."""
    assert done.returncode == 0, f"{done.args} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
