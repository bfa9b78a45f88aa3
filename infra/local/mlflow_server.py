"""The MLflow server: runs and models in SQLite, artifacts proxied to the object store."""

from __future__ import annotations

from collections.abc import Mapping

from infra.local import object_store
from infra.local.parts import TITLES, Part, base_environ, http_problem, program
from infra.local.ports import HOST
from infra.local.state import Folder


def settings(ports: Mapping[str, int]) -> dict[str, str]:
    """Return what a client of the server has to have in its environment."""
    return {
        "MLFLOW_TRACKING_URI": f"http://{HOST}:{ports['http']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }


def part(folder: Folder, ports: Mapping[str, int], s3_settings: Mapping[str, str], environ: Mapping[str, str]) -> Part:
    """Return the MLflow server as a part of the stack in `folder`, its artifacts where `s3_settings` says."""
    data = folder.part("mlflow")
    port = ports["http"]

    def healthy() -> str | None:
        # /health only says that the process listens; the search asks the database.
        return http_problem(port, "/health") or http_problem(port, "/api/2.0/mlflow/experiments/search?max_results=1")

    return Part(
        name="mlflow",
        title=TITLES["mlflow"],
        address=f"http://{HOST}:{port}",
        command=[
            program("mlflow", "mlflow"),
            "server",
            f"--backend-store-uri=sqlite:///{data / 'mlflow.db'}",
            f"--artifacts-destination=s3://{object_store.BUCKETS[1]}/",
            f"--host={HOST}",
            f"--port={port}",
            # One process answers with many threads; SQLite takes one writer at a time anyway.
            "--workers=1",
            f"--allowed-hosts={HOST}:{port},localhost:{port}",
        ],
        cwd=data,
        environ={
            **base_environ(environ, folder.home),
            **s3_settings,
            "MLFLOW_S3_ENDPOINT_URL": s3_settings["AWS_ENDPOINT_URL"],
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            # Its job runner is for GenAI evaluation: several more processes that nothing here uses.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        ready=healthy,
        healthy=healthy,
        start_timeout_s=120.0,
    )
