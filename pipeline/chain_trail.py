"""The MLflow run of a chain: found again by what the chain was asked to do, it keeps what each step gave.

What a step gave is a tag of the run, in JSON; the runs that the steps made are its children, and its description links
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline import tracking
from pipeline.chain_plan import STEPS, Asked, Record, Step, from_json, to_json
from pipeline.provenance import source_tags

CHAIN_TAG = "encnet.chain"
_STEP = "encnet.step."


class Trail:
    """The run of one chain. Raises TrackingError where MLflow fails."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._tracker = tracking.Tracker(run_id)

    @property
    def url(self) -> str:
        """Where a person looks at it."""
        return tracking.run_url(self._client, self.run_id)

    def keep(self, step: Step, inputs: Mapping[str, str], result: Mapping[str, str]) -> Record:
        """Remember that a step was done."""
        record = Record(inputs=inputs, result=result, at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
        self._tracker.set_tags({f"{_STEP}{step}": to_json(record)})
        return record

    def tell(self, done: Mapping[str, Record], outcome: str) -> None:
        """Bring what a person reads of the run up to date."""
        shown = {name: value for step in STEPS if step in done for name, value in _facts(step, done[step]).items()}
        self._tracker.set_tags({**shown, "outcome": outcome, tracking.NOTE_TAG: note(done, outcome)})

    def adopt(self, run_id: str) -> None:
        """Make the run of a step a child of this one, unless it has a parent."""
        try:
            if run_id and tracking.PARENT_TAG not in self._client.get_run(run_id).data.tags:
                self._client.set_tag(run_id, tracking.PARENT_TAG, self.run_id)
        except MlflowException as error:
            raise tracking.explain(error, f"run {run_id} could not be linked to the chain's") from error

    def log_score(self, name: str, value: float) -> None:
        """Show a score in the list of runs."""
        self._tracker.log_metrics({0: {name: value}})

    def end(self, status: str) -> None:
        """Set the run's status."""
        self._tracker.finish(status)


def find_trail(client: MlflowClient, asked: Asked) -> tuple[str, dict[str, Record]]:
    """The id of the run of a chain that was asked for before, and its steps that were done; '' and none for a new one.

    Writes nothing.
    """
    try:
        experiment = client.get_experiment_by_name(asked.config.experiment)
        if experiment is None:
            return "", {}
        runs = client.search_runs([experiment.experiment_id], f"tags.`{CHAIN_TAG}` = '{asked.key}'", max_results=1)
    except MlflowException as error:
        raise tracking.explain(error, "the chain's run could not be looked for") from error
    if not runs:
        return "", {}
    kept = {step: from_json(runs[0].data.tags.get(f"{_STEP}{step}", "null")) for step in STEPS}
    return str(runs[0].info.run_id), {step: record for step, record in kept.items() if record}


def open_trail(client: MlflowClient, asked: Asked, run_id: str) -> Trail:
    """The run of a chain, set running: the one found as `run_id`, or a new one where that is ''."""
    config = asked.config
    if run_id:
        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            raise tracking.explain(error, f"run {run_id} could not be gone on with") from error
        return Trail(client, run_id)
    tags = {
        CHAIN_TAG: asked.key,
        "kind": "chain",
        "recipe": config.recipe,
        "data": config.data.uri,
        "protocol": asked.protocol.label,
        **source_tags(f"encnet run {config.recipe}"),
    }
    name = f"{config.recipe}: data to champion"
    trail = Trail(client, tracking.new_run(client, config.experiment, name, tags))
    trail._tracker.log_text(json.dumps(config.to_dict(), indent=2), "config.json")
    return trail


def note(done: Mapping[str, Record], outcome: str) -> str:
    """What a person reads on the run's page, in Markdown: a row a step, with links."""
    rows = ["| step | done | what it gave |", "|---|---|---|"]
    for step in STEPS:
        record = done.get(step)
        if record is None:
            rows.append(f"| {step} | | |")
            continue
        text, link = _cell(record.result.get("text", "")), record.result.get("run_url")
        rows.append(f"| {step} | {record.at} | {f'[{text}]({link})' if link else text} |")
    return "\n".join([f"**{outcome}**", "", *rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("[", r"\[").replace("]", r"\]")


def _facts(step: Step, record: Record) -> dict[str, str]:
    """The tags by which a person finds the chain's run, of one step."""
    names = {
        "prepare": {"digest": "data set digest"},
        "train": {"model_uri": "model", "name": "run"},
        "evaluate": {"run_id": "evaluation run"},
        "gate": {"passed": "gates passed"},
        "promote": {"version": "promoted version"},
    }
    return {tag: record.result[name] for name, tag in names[step].items() if record.result.get(name)}
