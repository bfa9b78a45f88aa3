"""MLflow tracking of runs, as the driver does it: runs, their configuration, tables and status.

A run is found again by the tag `encnet.run` so that a resumed run goes on in the same MLflow run. Each call is made
for its result; what the training loop measures goes through `pipeline.outbox` instead, which never keeps it waiting.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import mlflow
import numpy as np
from mlflow.entities import Metric, Param, RunData, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.entities import PagedList

from pipeline.config import flat
from pipeline.environment import overridden
from pipeline.errors import InputError, Interrupted, TrackingError, first_line
from pipeline.timeline import Event

_logger = logging.getLogger(__name__)

RUN_TAG = "encnet.run"
PARENT_TAG = "mlflow.parentRunId"
"""By it the UI shows a run below another one."""
NOTE_TAG = "mlflow.note.content"
"""What a run's page says of it, in Markdown."""
EVENTS = "events.json"
CHANGED = "changed on resume"
_TABLES = "mlflow.loggedArtifacts"
"""The tag by which the UI knows which artifacts to show as tables."""
_MAX_BATCH = 500
_MAX_VALUE = 5000
"""Characters of a parameter or tag; MLflow takes some more."""
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the UI show the experiment as training runs, not as prompts and traces."""
BARS = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
FEW_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""For what should fail in seconds, such as a first contact: MLflow's own default retries for minutes."""
_ONE_RETRY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
T = TypeVar("T")


class NoServer(InputError):
    """No MLflow server answers at the address given."""


class Unreachable(TrackingError):
    """MLflow did not answer, or not now: the same call may succeed later."""


class Refused(TrackingError):
    """MLflow does not take what was sent, and never will."""


def tracking_uri() -> str:
    """The server's address, $MLFLOW_TRACKING_URI. Raises InputError where none is named."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault(BARS, "false")  # it would show one for every small file
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it tells each retry of MLflow's
    if not uri:
        raise InputError("MLFLOW_TRACKING_URI: not set: run 'encnet stack up', or name your MLflow server in it")
    return uri


def connect() -> mlflow.MlflowClient:
    """A client of the server at $MLFLOW_TRACKING_URI. Raises NoServer, an InputError, where it does not answer."""
    uri = tracking_uri()
    client = mlflow.MlflowClient(uri)
    try:
        with overridden(FEW_RETRIES):
            client.search_experiments(max_results=1)
    except MlflowException as error:
        raise NoServer(
            f"MLFLOW_TRACKING_URI: {uri!r} does not answer: run 'encnet stack up', or check the address and "
            f"MLFLOW_TRACKING_USERNAME / MLFLOW_TRACKING_PASSWORD ({_reason(error)})"
        ) from None
    mlflow.set_tracking_uri(uri)
    return client


def explain(error: Exception, what: str) -> TrackingError:
    """`error` of a call about `what` as one of ours: Unreachable or Refused where that is sure, else TrackingError."""
    answer = getattr(error, "response", None)  # of requests, for artifacts
    status = error.get_http_status_code() if isinstance(error, RestException) else getattr(answer, "status_code", 0)
    kind = TrackingError
    if status in (0, 408, 429) or status >= 500:
        kind = Unreachable
    elif status in (400, 413):
        kind = Refused
    return kind(f"MLflow at {os.environ.get('MLFLOW_TRACKING_URI')}: {what}: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Why a call failed, in words; of requests' many words for a missing answer only the kind."""
    cause = error.__context__ if isinstance(error, MlflowException) else None
    return f"no answer, {type(cause).__name__}" if isinstance(cause, OSError) else first_line(error)


def patiently(action: Callable[[], T], what: str, patience_s: float, pause_s: float = 5.0) -> T:
    """What `action` gives; where MLflow does not answer, it is tried again for up to `patience_s`.

    `action` must be one that can be done twice. `what` it does is told. Raises what it raised last.
    """
    deadline, told = time.monotonic() + patience_s, False
    while True:
        try:
            with overridden(_ONE_RETRY):
                return action()
        except (Unreachable, NoServer) as error:
            if time.monotonic() + pause_s > deadline:
                raise
            if not told:
                _logger.warning("%s: %s: trying again for %.0f s", what, first_line(error), patience_s)
                told = True
        time.sleep(pause_s)


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
        raise explain(error, f"the run {name!r} could not be found") from error
    return new_run(client, experiment, name, {RUN_TAG: name, **tags})


@contextmanager
def ending(end: Callable[[str], None]) -> Iterator[None]:
    """Call `end` with what MLflow calls the end of the block: FINISHED, KILLED where a signal ended it, else FAILED.

    That MLflow can't be told is no reason for another end than the block's own.
    """
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, Interrupted):
        status = "KILLED"
        raise
    finally:
        try:
            end(status)
        except (TrackingError, NoServer) as error:
            _logger.warning("the MLflow run keeps its status of a running one: %s", first_line(error))


def new_run(client: mlflow.MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    """The id of a new MLflow run."""
    try:
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, tags=_TRAINING)
        return str(client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id)
    except MlflowException as error:
        raise explain(error, f"the run {name!r} could not be opened") from error


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
        raise explain(error, f"{name} version {version} could not be scored") from error


def short_digest(digest: str) -> str:
    """MLflow takes digests of at most 36 characters."""
    return digest[:36]


def run_url(client: mlflow.MlflowClient, run_id: str) -> str:
    """The address of a run in the MLflow UI."""
    experiment_id = client.get_run(run_id).info.experiment_id
    return f"{client.tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def find_finished(client: mlflow.MlflowClient, tag: str, value: str) -> list[str]:
    """The ids of the finished runs, of all experiments, whose tag has that value: the newest first."""
    try:
        experiments = [found.experiment_id for found in pages(client.search_experiments)]
        chosen = f"attributes.status = 'FINISHED' and tags.`{tag}` = '{value}'"
        runs = client.search_runs(experiments, chosen, order_by=["attributes.start_time DESC"]) if experiments else []
        return [str(run.info.run_id) for run in runs]
    except MlflowException as error:
        raise explain(error, f"runs with {tag!r} could not be looked for") from error


def pages(search: Callable[..., PagedList[T]]) -> Iterator[T]:
    """All that a search finds, page after page."""
    token: str | None = None
    while token != "":
        page = search(page_token=token)
        yield from page
        token = page.token or ""


def fetch_artifact(client: mlflow.MlflowClient, run_id: str, path: str) -> bytes:
    """The contents of an artifact of a run. Raises TrackingError, also where there is none."""
    with tempfile.TemporaryDirectory(prefix="encnet-artifact-") as folder:
        try:
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
        except (MlflowException, OSError) as error:  # of requests
            raise explain(error, f"{path} of run {run_id} could not be fetched") from error


class Tracker:
    """Writes to one MLflow run. Raises TrackingError (Unreachable, Refused) where that fails."""

    def __init__(self, run_id: str) -> None:
        self.client = connect()
        self.run_id = run_id

    def log_config(self, values: Mapping[str, Any], tags: Mapping[str, str]) -> list[str]:
        """Log the resolved configuration as `config.json` and its leaves as parameters, beside `tags`.

        Those of a run that was begun before stay as they were: the tag CHANGED says what is otherwise now, and it is
        returned: "workers.num: 2 -> 4". `config.json` is always the one in force.
        """
        texts = {name: str(value)[:_MAX_VALUE] for name, value in flat(values).items()}
        run = self._data()
        params = [Param(name, value) for name, value in texts.items() if name not in run.params]
        for first in range(0, len(params), 100):
            self._call("log_batch", self.run_id, params=params[first : first + 100])
        changed = [
            f"{name}: {before[name]} -> {value}"
            for before, now in ((run.tags, tags), (run.params, texts))
            for name, value in now.items()
            if before.get(name, value) != value
        ]
        noted = {CHANGED: "; ".join(changed) or "nothing"} if changed or CHANGED in run.tags else {}
        self.set_tags({name: value for name, value in tags.items() if name not in run.tags} | noted)
        self.log_text(json.dumps(values, indent=2), "config.json")
        return changed

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

    def log_text(self, text: str, path: str) -> None:
        """Log a text file as artifact `path`."""
        self._call("log_text", self.run_id, text, path)

    def log_file(self, path: Path, folder: str) -> None:
        """Log a file as an artifact in `folder`, in place of one of its name that is there."""
        self._call("log_artifact", self.run_id, str(path), folder)

    def log_table(self, columns: Mapping[str, Sequence[Any]], path: str) -> None:
        """Log a table (column -> values) as artifact `path`, shown in the UI, in place of what is there.

        MLflow's own call adds rows to a table that is there: a resumed run's would be in it twice.
        """
        rows = [[_shown(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
        self.log_text(json.dumps({"columns": list(columns), "data": rows}), path)
        known = json.loads(self._data().tags.get(_TABLES, "[]"))
        if path not in {entry["path"] for entry in known}:
            self.set_tags({_TABLES: json.dumps([*known, {"path": path, "type": "table"}])})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._call("log_batch", self.run_id, tags=[RunTag(name, value[:_MAX_VALUE]) for name, value in tags.items()])

    def finish(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED; tried for seconds only, since little is lost without."""
        with overridden(FEW_RETRIES):
            self._call("set_terminated", self.run_id, status=status)

    def _data(self) -> RunData:
        data: RunData = self._call("get_run", self.run_id).data
        return data

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self.client, method)(*args, **kwargs)
        except (MlflowException, OSError) as error:  # of requests, for artifacts
            raise explain(error, f"{method} for run {self.run_id} failed") from error


def log_events(run_id: str, events: Sequence[Event]) -> None:
    """Show the timeline of a run as the table `events.json`, whole each time.

    Raises TrackingError or NoServer, within seconds.
    """
    columns: dict[str, list[Any]] = {
        "time (UTC)": [f"{datetime.fromtimestamp(event.at, UTC):%Y-%m-%d %H:%M:%S}" for event in events],
        "step": ["" if event.step is None else event.step for event in events],
        "event": [event.kind for event in events],
        "workers": [event.workers or "" for event in events],
        "detail": [event.detail for event in events],
    }
    with overridden(FEW_RETRIES):
        Tracker(run_id).log_table(columns, EVENTS)


def metric_name(name: str) -> str:
    """`name` with the characters that MLflow refuses replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _shown(cell: Any) -> Any:
    """A cell of a table as the UI can read it: JSON has no NaN."""
    return None if isinstance(cell, float) and np.isnan(cell) else cell
