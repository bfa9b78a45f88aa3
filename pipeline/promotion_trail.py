"""The trail of a registered model: an MLflow run for each promotion, refusal, appointment and rollback.

It says who moved the champion, when, why, from which version to which, and on what grounds: the verdicts of the gates
as a table, the scores as metrics, and the evaluations by their addresses.
"""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, cast

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline import tracking
from pipeline.provenance import git_commit
from pipeline.verdicts import Verdict

Outcome = Literal["promoted", "refused", "appointed", "rolled back"]
_MODEL = "promotion of"
"""The tag that makes a run part of a trail, and the one by which it is found again."""
_VERDICTS = "verdicts.json"
_WORDS: dict[Outcome, tuple[str, str]] = {
    "promoted": ("promoted", "over"),
    "refused": ("refused", "against"),
    "appointed": ("appointed", "over"),
    "rolled back": ("brought back", "after"),
}
"""What became of a version, and how it stands to the champion until then."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a trail."""

    outcome: Outcome
    name: str
    version: str
    """That it is about: the champion from then on, but for a refused one."""
    before: str
    """The champion until then; '' for none."""
    who: str
    why: str
    at: datetime
    """In UTC."""
    run_id: str
    run_url: str

    @property
    def text(self) -> str:
        """It in words: "version 4 promoted over 3 by ann@host: better at night"."""
        done, over = _WORDS[self.outcome]
        before = f" {over} {self.before}" if self.before else ""
        return f"version {self.version} {done}{before} by {self.who}{f': {self.why}' if self.why else ''}"


@dataclass(frozen=True, kw_only=True)
class Grounds:
    """What a decision was made on."""

    verdicts: Sequence[Verdict] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    """Metric -> value."""
    links: Mapping[str, str] = field(default_factory=dict)
    """What is there -> its address."""


def this_person() -> str:
    """Who does it, as the trail says: MLflow's user, else this machine's, and where."""
    try:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{platform.node()}"


def open_entry(
    client: MlflowClient, experiment: str, outcome: Outcome, name: str, version: str, before: str, why: str
) -> Entry:
    """Begin an entry: from here on it can be seen that it was begun."""
    who = this_person()
    tags = {
        _MODEL: name,
        "kind": "promotion",
        "outcome": outcome,
        "version": version,
        "champion before": before,
        "who": who,
        "why": why,
        "mlflow.user": who,
        "git commit": git_commit(),
    }
    run_id = tracking.new_run(client, experiment, f"{name} v{version}: {outcome}", tags)
    try:
        run_url = tracking.run_url(client, run_id)
    except MlflowException as error:
        raise tracking.explain(error, f"the run {run_id} could not be read") from error
    return Entry(
        outcome=outcome,
        name=name,
        version=version,
        before=before,
        who=who,
        why=why,
        at=datetime.now(UTC),
        run_id=run_id,
        run_url=run_url,
    )


def close_entry(client: MlflowClient, entry: Entry, grounds: Grounds) -> None:
    """Add what it was decided on, and leave a tag at the version. Raises TrackingError."""
    tracker = tracking.Tracker(entry.run_id)
    tracker.log_metrics({0: dict(grounds.scores)})
    links = {what: address for what, address in grounds.links.items() if address}
    lines = [f"**{entry.text}**", *(f"- {verdict.text}" for verdict in grounds.verdicts)]
    lines += [f"- [{what}]({address})" for what, address in links.items()]
    tracker.set_tags({**links, tracking.NOTE_TAG: "\n".join([lines[0], "", *lines[1:]])})
    if grounds.verdicts:
        tracker.log_table(verdict_columns(grounds.verdicts), _VERDICTS)
    try:
        at = f"{entry.at:%Y-%m-%d %H:%M} UTC: {entry.text}"
        client.set_model_version_tag(entry.name, entry.version, entry.outcome, at)
    except MlflowException as error:
        raise tracking.explain(error, f"{entry.name} version {entry.version} could not be tagged") from error
    tracker.finish()


def verdict_columns(verdicts: Sequence[Verdict]) -> dict[str, list[str]]:
    """Verdicts as a table: column -> cells."""
    return {
        "gate": [verdict.gate for verdict in verdicts],
        "passed": ["yes" if verdict.passed else "no" for verdict in verdicts],
        "finding": [verdict.text.removeprefix(f"{verdict.gate}: ") for verdict in verdicts],
    }


def read_trail(name: str, most: int = 20) -> list[Entry]:
    """The latest entries of a registered model that were finished, the newest first. Raises TrackingError."""
    client = tracking.connect()
    try:
        return [_read_entry(client, name, run_id) for run_id in tracking.find_finished(client, _MODEL, name)[:most]]
    except MlflowException as error:
        raise tracking.explain(error, f"the trail of {name!r} could not be read") from error


def _read_entry(client: MlflowClient, name: str, run_id: str) -> Entry:
    run = client.get_run(run_id)
    tags = run.data.tags
    return Entry(
        outcome=cast(Outcome, tags["outcome"]),
        name=name,
        version=tags["version"],
        before=tags["champion before"],
        who=tags["who"],
        why=tags["why"],
        at=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        run_id=run_id,
        run_url=tracking.run_url(client, run_id),
    )
