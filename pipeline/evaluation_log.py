"""An evaluation in MLflow: a run with scores, record and report, linked to the model version and the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from pipeline import tracking
from pipeline.evaluation_record import KEY_TAG, Facts, Record, fetch_pictures, log_record
from pipeline.evaluation_report import Comparison, class_columns, render, summarize
from pipeline.evaluation_tally import Tally
from pipeline.provenance import git_tags
from pipeline.registry import ResolvedModel, find_version

REPORT = "report/index.html"
_RUN_TAG = "evaluation run"
"""Of a model version: the run with its newest evaluation."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found. Scores are shares of 1."""

    model_uri: str
    miou: float
    pix_acc: float
    iou: dict[str, float]
    """Per class; NaN for a class that is in neither truth nor prediction."""
    boundary_f: dict[str, float]
    """Per class, the boundary F-score; NaN for a class without a boundary."""
    mean_boundary_f: float
    ece: float
    """The expected calibration error."""
    overconfidence: float
    """Mean confidence minus accuracy."""
    latency_ms: float | None
    """Of an image, the median; None where only first batches were timed."""
    memory_bytes: int | None
    """Of a GPU, at most; None where there was none."""
    parameters: int
    checks: dict[str, str]
    """What was checked -> what is wrong with it, empty where nothing is."""
    num_images: int
    run_id: str
    run_url: str


def describe(record: Record) -> Evaluation:
    """The scores of a finished evaluation."""
    facts, tally = record.facts, record.tally
    confusion, boundary, calibration = tally.confusion, tally.boundary, tally.calibration
    return Evaluation(
        model_uri=facts.model_uri,
        miou=confusion.mean_iou,
        pix_acc=confusion.pix_acc,
        iou=dict(zip(facts.classes, confusion.iou.tolist(), strict=True)),
        boundary_f=dict(zip(facts.classes, boundary.f_score.tolist(), strict=True)),
        mean_boundary_f=boundary.mean_f_score,
        ece=calibration.ece,
        overconfidence=calibration.overconfidence,
        latency_ms=tally.latency_ms,
        memory_bytes=tally.memory_bytes,
        parameters=facts.parameters,
        checks=dict(facts.checks),
        num_images=len(tally.sample_ids),
        run_id=record.run_id,
        run_url=record.run_url,
    )


def log_evaluation(facts: Facts, tally: Tally, pictures: Sequence[bytes], model_id: str, experiment: str) -> Record:
    """Log an evaluation to a new run of its own, and its scores to the model version.

    The run counts as finished once all is there. `pictures`: JPEGs of `facts.worst`. Raises TrackingError.
    """
    client, protocol = tracking.connect(), facts.protocol
    tags = {
        "kind": "evaluation",
        "model": facts.model_uri,
        "data set": facts.data_name,
        "protocol": protocol.label,
        "data set digest": facts.data_digest,
        "weights digest": facts.weights_digest,
        KEY_TAG: facts.key,
        tracking.NOTE_TAG: summarize(facts, tally),
        **git_tags(),
    }
    name = f"evaluate {facts.title} on {facts.data_name}/{protocol.label}"
    tracker = tracking.Tracker(tracking.new_run(client, experiment, name, tags))
    try:
        tracker.log_dataset(facts.data_name, protocol.data, facts.data_digest, "evaluation")
        tracker.log_config({"model": facts.model_uri, **vars(protocol), "scales": list(protocol.scales)}, {})
        record = Record(
            facts=facts, tally=tally, run_id=tracker.run_id, run_url=tracking.run_url(client, tracker.run_id)
        )
        log_record(tracker, facts, tally, pictures)
        tracker.log_text(render(facts, tally, pictures), REPORT)
        tracker.log_table(class_columns(facts, tally), "per_class.json")
        tracker.log_metrics({0: {**_shown_scores(record), **_other_scores(record)}})
        if facts.name:
            _score_version(record, facts.name, facts.version, model_id)
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish()
    return record


def link_version(record: Record, model: ResolvedModel) -> None:
    """Show the scores of an evaluation on another version of the same weights, where they are not there yet."""
    if not model.name or model.uri == record.facts.model_uri:
        return
    if find_version(model.uri).tags.get(_RUN_TAG) != record.run_id:
        _score_version(record, model.name, model.version, model.model_id)


def _score_version(record: Record, name: str, version: str, model_id: str) -> None:
    facts, scores = record.facts, _shown_scores(record)
    tracking.score_version(
        tracking.connect(),
        record.run_id,
        name,
        version,
        model_id,
        scores,
        facts.data_name,
        facts.data_digest,
        {_RUN_TAG: record.run_id},
    )


def _shown_scores(record: Record) -> dict[str, float]:
    """The metrics that are shown on the model version too."""
    found = describe(record)
    named = {
        "miou": found.miou,
        "pix_acc": found.pix_acc,
        "boundary_f": found.mean_boundary_f,
        "ece": found.ece,
        "latency_ms": found.latency_ms,
    }
    return _named(record, {name: value for name, value in named.items() if value is not None and not isnan(value)})


def _other_scores(record: Record) -> dict[str, float]:
    """The metrics of the run alone."""
    found = describe(record)
    memory = {} if found.memory_bytes is None else {"memory_bytes": float(found.memory_bytes)}
    per_class = {f"iou/{name}": iou for name, iou in found.iou.items()}
    return _named(
        record,
        {"overconfidence": found.overconfidence, "parameters": float(found.parameters), **memory, **per_class},
    )


def _named(record: Record, scores: Mapping[str, float]) -> dict[str, float]:
    """Metrics by the names under which those of another split or protocol are not."""
    return {f"eval/{record.facts.protocol.label}/{name}": value for name, value in scores.items()}


def log_comparison(record: Record, comparison: Comparison) -> None:
    """Put a comparison into the report of a finished evaluation, in place of one that was there."""
    html = render(record.facts, record.tally, fetch_pictures(record), comparison)
    tracking.Tracker(record.run_id).log_text(html, REPORT)
