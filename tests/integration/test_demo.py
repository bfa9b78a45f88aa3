"""`encnet demo` as a newcomer runs it, with few steps: it ends with the table, the names and the addresses."""

from __future__ import annotations

import re

from mlflow import MlflowClient

from tests.integration.command import run_encnet
from tests.running_stack import RunningStack


def test_the_demo_tells_its_story(stack: RunningStack) -> None:
    done = run_encnet("demo", "--steps", "4")
    assert done.returncode == 0, done.stderr
    for number in range(1, 6):
        assert f"[{number}/5]" in done.stderr
    rows = re.findall(
        r"│ (FCN|EncNet) +│ +([\d.]+) │ +([\d.]+|nan) │ +([\d.]+) │ (demo-\S+) +│ (models:/\S+)( +champion)? +│",
        done.stdout,
    )
    assert [row[0] for row in rows] == ["FCN", "EncNet"]
    assert [bool(row[6]) for row in rows].count(True) == 1
    client = MlflowClient(stack.environment["MLFLOW_TRACKING_URI"])
    for title, miou, _, pix_acc, run_name, model, _ in rows:
        name, number = model.removeprefix("models:/").split("/")
        version = client.get_model_version(name, number)
        run = client.get_run(version.run_id or "")
        assert (run.info.run_name, run.info.status) == (run_name, "FINISHED")
        assert run.data.tags["architecture"] == title.lower()
        assert f"{100 * float(version.tags['eval/val/miou']):.2f}" == miou
        assert f"{100 * float(version.tags['eval/val/pix_acc']):.2f}" == pix_acc
    best = max(rows, key=lambda row: float(row[1]))
    champion = client.get_model_version_by_alias("encnet-context-scenes", "champion")
    winners = {row[5] for row in rows if row[6]}
    assert winners == {f"models:/encnet-context-scenes/{champion.version}"}
    assert float(next(row for row in rows if row[6])[1]) == float(best[1])
    for address in ("MLFLOW_TRACKING_URI", "RAY_API_SERVER_ADDRESS", "AWS_ENDPOINT_URL"):
        assert stack.environment[address] in done.stdout
    assert "What to look at: in the MLflow UI" in done.stdout
