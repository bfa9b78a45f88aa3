"""What MLflow shows of a sweep: a run for the sweep, and below it those of its trials.

The sweep's run carries the leaderboard, the best trial's configuration, two pictures and, as a curve, the best score
after each trial. It is found again by its name, like any run, so that a resumed sweep goes on in the same one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline import tracking
from pipeline.delivery import Delivery, Points
from pipeline.provenance import source_tags, versions
from pipeline.shards import DatasetInfo
from pipeline.sweep_config import SweepConfig
from pipeline.sweep_pictures import influence_picture, influences, parallel_coordinates
from pipeline.sweep_plan import Outcome, Trial, best, count, leaderboard

LEADERBOARD = "leaderboard.json"
BEST_CONFIG = "best_config.json"
PARALLEL = "parallel_coordinates.png"
INFLUENCE = "influence.png"
_PAGE = 1000
_STATUS = {
    Outcome.FINISHED: "FINISHED",
    Outcome.STOPPED: "KILLED",
    Outcome.DIVERGED: "FAILED",
    Outcome.FAILED: "FAILED",
}
"""How MLflow calls the end of a trial."""


def open_sweep(client: MlflowClient, config: SweepConfig, dataset: DatasetInfo) -> SweepTracker:
    """The MLflow run of the sweep: the one already there, or a new one, set running. Raises TrackingError."""
    tags = {
        "kind": "sweep",
        "recipe": config.run.recipe,
        "data set": dataset.name,
        "data set digest": dataset.digest,
        **versions(),
        **_origin(config),
    }
    run_id = tracking.open_run(client, config.run.experiment, config.name, tags)
    tracker = tracking.Tracker(run_id)
    tracker.log_config(config.to_dict(), tags)
    tracker.log_dataset(dataset.name, config.run.data.uri, dataset.digest, "training")
    return SweepTracker(config, tracker)


def tags_of_trials(config: SweepConfig, parent: str) -> dict[str, str]:
    """The tags of the MLflow runs of trials; by `parent`, the sweep's run, the UI shows them below it."""
    return {tracking.PARENT_TAG: parent, **_origin(config)}


def _origin(config: SweepConfig) -> dict[str, str]:
    return {"sweep": config.name, **source_tags(f"encnet sweep {config.sweep}")}


class SweepTracker:
    """Writes to the MLflow run of a sweep, and marks those of its trials. Raises TrackingError where that fails."""

    def __init__(self, config: SweepConfig, tracker: tracking.Tracker) -> None:
        self._config, self._tracker = config, tracker
        self._delivery = Delivery(tracker.run_id)
        self._drawn: set[int] = set()
        """The trials whose scores are in the curves."""
        self.run_id = tracker.run_id

    @property
    def url(self) -> str:
        """The address of the sweep in the MLflow UI."""
        return tracking.run_url(self._tracker.client, self.run_id)

    def update(self, trials: Sequence[Trial]) -> None:
        """Show the trials as they are now. Done again, it changes nothing."""
        runs = self._runs_of_trials()
        ours = self.url
        urls = {name: ours.replace(self.run_id, run.info.run_id) for name, run in runs.items()}
        self._tracker.log_table(leaderboard_columns(trials, self._config, urls), LEADERBOARD)
        self._mark(trials, runs)
        self._draw_curves(trials)
        winner = best(trials)
        if winner:
            config = self._config.trial(winner.number, winner.values)
            self._tracker.log_text(json.dumps(config.to_dict(), indent=2), BEST_CONFIG)
        self._draw_pictures(trials)
        self._tracker.set_tags({tracking.NOTE_TAG: description(trials, self._config), "trials": summary(trials)})

    def link_best(self, trial: Trial, model_uri: str, run_url: str) -> None:
        """Tell which trial is best, and what it is registered as."""
        score = f"trial {trial.number}: {100 * (trial.score or 0.0):.2f} % {self._config.metric}"
        self._tracker.set_tags({"best trial": score, "best model": model_uri, "best run": run_url})

    def finish(self, status: str) -> None:
        """End the MLflow run as FINISHED, FAILED or KILLED."""
        self._tracker.finish(status)

    def _draw_curves(self, trials: Sequence[Trial]) -> None:
        """The score of each trial that ended, by its number, and the best so far, by how many had ended."""
        metric, ended = self._config.metric, [one for one in trials if one.outcome is not Outcome.OPEN]
        new = [one for one in ended if one.score is not None and one.number not in self._drawn]
        points = [Points.now(one.number, {f"trial/{metric}": one.score or 0.0}) for one in new]
        winner = best(trials)
        if new and winner:
            points.append(Points.now(len(ended), {f"best/{metric}": winner.score or 0.0}))
        self._delivery.points(points)
        self._drawn |= {one.number for one in new}

    def _draw_pictures(self, trials: Sequence[Trial]) -> None:
        space, num_scored = self._config.space, sum(one.score is not None for one in trials)
        if num_scored:
            self._delivery.file(PARALLEL, parallel_coordinates(trials, space, self._config.metric))
        if found := influences(trials, space):
            self._delivery.file(INFLUENCE, influence_picture(found, num_scored))

    def _mark(self, trials: Sequence[Trial], runs: Mapping[str, Run]) -> None:
        """Tell in each trial's own run how it ended: MLflow knows no word for one that a scheduler ended.

        A run that still counts as running is that of a trial whose driver died between its end and its run's.
        """
        for one in trials:
            run = runs.get(self._config.trial_name(one.number))
            outcome = f"{one.outcome}: {one.reason}" if one.reason else str(one.outcome)
            if run and run.data.tags.get("outcome") != outcome:
                tracking.Tracker(run.info.run_id).set_tags({"outcome": outcome})
            if run and run.info.status == "RUNNING" and one.outcome in _STATUS:
                tracking.Tracker(run.info.run_id).finish(_STATUS[one.outcome])

    def _runs_of_trials(self) -> dict[str, Run]:
        """The MLflow runs of the trials, by name."""
        client = self._tracker.client
        try:
            experiment = client.get_run(self.run_id).info.experiment_id
            chosen = f"tags.`{tracking.PARENT_TAG}` = '{self.run_id}'"
            found = tracking.pages(partial(client.search_runs, [experiment], chosen, max_results=_PAGE))
            return {run.data.tags.get(tracking.RUN_TAG, ""): run for run in found}
        except MlflowException as error:
            raise tracking.explain(error, f"the trials of {self._config.name!r} could not be looked for") from error


def leaderboard_columns(trials: Sequence[Trial], config: SweepConfig, urls: Mapping[str, str]) -> dict[str, list[Any]]:
    """The trials as a table, column -> values, the best first."""
    rows = leaderboard(trials)
    names = [config.trial_name(one.number) for one in rows]
    return {
        "place": list(range(1, len(rows) + 1)),
        "trial": [one.number for one in rows],
        f"{config.metric} %": [None if one.score is None else round(100 * one.score, 2) for one in rows],
        "outcome": [str(one.outcome) for one in rows],
        "done %": [round(100 * one.share) for one in rows],
        "steps": [one.step for one in rows],
        **{path: [str(one.values[path]) for one in rows] for path in config.space},
        "run": [urls.get(name, "") for name in names],
        "why": [one.reason for one in rows],
    }


def description(trials: Sequence[Trial], config: SweepConfig) -> str:
    """What the sweep's page says of it, in Markdown."""
    lines = [
        f"Sweep over {', '.join(f'`{path}`' for path in config.space)} of `{config.run.recipe}`: {summary(trials)}"
    ]
    winner = best(trials)
    if winner:
        values = ", ".join(f"`{path}` = {value}" for path, value in winner.values.items())
        lines.append(f"Best: trial {winner.number} with {100 * (winner.score or 0.0):.2f} % {config.metric}: {values}.")
    artifacts = {"the trials in order": LEADERBOARD}
    if winner:
        artifacts["the best one's configuration"] = BEST_CONFIG
    if any(one.score is not None for one in trials):
        artifacts["every trial as a line"] = PARALLEL
    if influences(trials, config.space):
        artifacts["what each field explains by itself"] = INFLUENCE
    lines.append(f"Artifacts: {', '.join(f'{what} (`{name}`)' for what, name in artifacts.items())}.")
    return "\n\n".join(lines)


def summary(trials: Sequence[Trial]) -> str:
    """How many trials ended how: "4 finished, 1 stopped early, 1 open"."""
    words = {Outcome.STOPPED: "stopped early"}
    counts = [(number, outcome) for outcome in Outcome if (number := count(trials, outcome))]
    return ", ".join(f"{number} {words.get(outcome, outcome)}" for number, outcome in counts) or "no trials yet"
