"""MLflow tracking of runs: the only place that writes runs, metrics and pictures.

A run is found again by the tag `encnet.run` so that a resumed run goes on in the same MLflow run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from pipeline.environment import overridden
from pipeline.errors import InputError, TrackingError, first_line

_logger = logging.getLogger(__name__)

RUN_TAG = "encnet.run"
_MAX_BATCH = 500
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the UI show the experiment as training runs, not as prompts and traces."""
_FEW_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""A first contact should fail in seconds: MLflow's own default retries for minutes."""


def connect() -> mlflow.MlflowClient:
    """A client of the server at $MLFLOW_TRACKING_URI. Raises InputError where none is named or it does not answer."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    if not uri:
        raise InputError("MLFLOW_TRACKING_URI: not set: run 'encnet stack up', or name your MLflow server in it")
    client = mlflow.MlflowClient(uri)
    try:
        with overridden(_FEW_RETRIES):
            client.search_experiments(max_results=1)
    except MlflowException as error:
        raise InputError(
            f"MLFLOW_TRACKING_URI: {uri!r} does not answer: run 'encnet stack up', or check the address and "
            f"MLFLOW_TRACKING_USERNAME / MLFLOW_TRACKING_PASSWORD ({first_line(error)})"
        ) from None
    mlflow.set_tracking_uri(uri)
    return client


def open_run(client: mlflow.MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    """The id of the MLflow run called `name`: the one already there, or a new one, set running."""
    try:
        found = client.get_experiment_by_name(experiment)
        if found:
            runs = client.search_runs([found.experiment_id], f"tags.`{RUN_TAG}` = '{name}'", max_results=1)
            if runs:
                client.update_run(runs[0].info.run_id, status="RUNNING")
                return str(runs[0].info.run_id)
    except MlflowException as error:
        raise TrackingError(f"MLflow: the run {name!r} could not be found: {first_line(error)}") from error
    return new_run(client, experiment, name, {RUN_TAG: name, **tags})


def git_commit() -> str:
    """The commit that this code is at: from the checkout, or as the submitter of a job passed it; else 'unknown'."""
    if "ENCNET_GIT_COMMIT" in os.environ:
        return os.environ["ENCNET_GIT_COMMIT"]
    here = Path(__file__).resolve().parent
    done = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    return done.stdout.strip() or "unknown"


def new_run(client: mlflow.MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    """The id of a new MLflow run."""
    try:
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, tags=_TRAINING)
        return str(client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id)
    except MlflowException as error:
        raise TrackingError(f"MLflow: the run {name!r} could not be opened: {first_line(error)}") from error


def score_version(
    client: mlflow.MlflowClient,
    run_id: str,
    name: str,
    version: str,
    model_id: str,
    scores: Mapping[str, float],
    dataset: str,
    digest: str,
    tags: Mapping[str, str],
    step: int = 0,
) -> None:
    """Link an evaluation's scores to a registered model version: as metrics of its logged model and as tags,
    beside `tags`."""
    try:
        for key, value in scores.items():
            if model_id:
                client.log_metric(
                    run_id,
                    key,
                    value,
                    step=step,
                    model_id=model_id,
                    dataset_name=dataset,
                    dataset_digest=short_digest(digest),
                )
            client.set_model_version_tag(name, version, key, f"{value:.6f}")
        for key, text in tags.items():
            client.set_model_version_tag(name, version, key, text)
    except MlflowException as error:
        raise TrackingError(f"MLflow: {name} version {version} could not be scored: {first_line(error)}") from error


def short_digest(digest: str) -> str:
    """MLflow takes digests of at most 36 characters."""
    return digest[:36]


def run_url(client: mlflow.MlflowClient, run_id: str) -> str:
    """The address of a run in the MLflow UI."""
    experiment_id = client.get_run(run_id).info.experiment_id
    return f"{client.tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


class _Monitor(SystemMetricsMonitor):
    """Logs the last, unfinished interval too: a run of a few seconds would have no system metrics otherwise."""

    def monitor(self) -> None:
        """Collect and log until the run ends."""
        super().monitor()
        try:
            if rest := self.aggregate_metrics():
                self.publish_metrics(rest)
        except MlflowException as error:
            _logger.warning("MLflow: the last system metrics of the run are lost: %s", first_line(error))


class Tracker(AbstractContextManager["Tracker"]):
    """Writes to one MLflow run; system metrics of this node are logged while it is open."""

    def __init__(self, run_id: str, *, system_metrics: bool = False, node: str | None = None) -> None:
        self.client = connect()
        self.run_id = run_id
        self._monitor = (
            _Monitor(run_id, sampling_interval=5, resume_logging=True, node_id=node) if system_metrics else None
        )

    def __enter__(self) -> Tracker:
        if self._monitor:
            self._monitor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._monitor:
            self._monitor.finish()

    def log_config(self, values: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Log the resolved configuration as `config.json` and its leaves as parameters."""
        flat = {name: str(value)[:6000] for name, value in _flatten(values)}
        known = self.client.get_run(self.run_id).data.params
        params = [Param(name, value) for name, value in flat.items() if name not in known]
        for first in range(0, len(params), 100):
            self._call("log_batch", self.run_id, params=params[first : first + 100])
        self._call("log_batch", self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        self.log_text(json.dumps(values, indent=2), "config.json")

    def log_metrics(self, points: Mapping[int, Mapping[str, float]]) -> None:
        """Log step -> name -> value, in as few requests as the server allows. NaN (an absent class) is left out."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(metric_name(name), float(value), now, step)
            for step, values in points.items()
            for name, value in values.items()
            if not np.isnan(value)
        ]
        for first in range(0, len(metrics), _MAX_BATCH):
            self._call("log_batch", self.run_id, metrics=metrics[first : first + _MAX_BATCH])

    def log_dataset(self, name: str, uri: str, digest: str, context: str) -> None:
        """Record the data set that the run used, by address and digest."""
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        data_set = MetaDataset(resolve_dataset_source(uri), name=name, digest=short_digest(digest))  # type: ignore[abstract]
        entry = DatasetInput(data_set._to_mlflow_entity(), [InputTag("mlflow.data.context", context)])
        self._call("log_inputs", self.run_id, datasets=[entry])

    def log_picture(self, picture: np.ndarray, name: str, step: int) -> None:
        """Log an (H, W, 3) uint8 picture as artifact images/step_0000120/NAME.png.

        Not by key and step: the UI then buries it in a chart under the run's parameters.
        """
        self._call("log_image", self.run_id, picture, artifact_file=f"images/step_{step:07d}/{name}.png")

    def log_text(self, text: str, path: str) -> None:
        """Log a text file as artifact `path`."""
        self._call("log_text", self.run_id, text, path)

    def log_table(self, columns: Mapping[str, list[Any]], path: str) -> None:
        """Log a table (column -> values) as artifact `path`, shown in the UI."""
        self._call("log_table", self.run_id, dict(columns), path)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._call("log_batch", self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def finish(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self._call("set_terminated", self.run_id, status=status)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> None:
        try:
            getattr(self.client, method)(*args, **kwargs)
        except MlflowException as error:
            raise TrackingError(f"MLflow: {method} for run {self.run_id} failed: {first_line(error)}") from error


def metric_name(name: str) -> str:
    """`name` with the characters that MLflow refuses replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        pairs += _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return pairs
