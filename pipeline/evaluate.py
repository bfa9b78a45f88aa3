"""Evaluation of a model on Ray workers: every sample of a split exactly once, linked to the model version.

The split is cut into chunks whose counts are kept on storage until all is logged, so that an evaluation that was ended
goes on. What it found is in an MLflow run of its own, and found again by the digests of weights and data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import encnet
from pipeline import tracking
from pipeline.bootstrap import Difference
from pipeline.cluster import connect_ray
from pipeline.errors import InputError
from pipeline.evaluation_chunks import KeptChunks
from pipeline.evaluation_log import Evaluation, describe, link_version, log_comparison, log_evaluation
from pipeline.evaluation_plan import Protocol, count_chunks, evaluation_key
from pipeline.evaluation_record import Facts, Record, Recorded, WorstImage, find_record
from pipeline.evaluation_report import Comparison
from pipeline.evaluation_share import Evaluator, Painter
from pipeline.evaluation_tally import Tally, join_tallies, worst_samples
from pipeline.predict_model import Weights
from pipeline.progress import ProgressView
from pipeline.provenance import git_commit
from pipeline.registry import ResolvedModel, resolve_model
from pipeline.shard_runner import on_ray
from pipeline.shards import DatasetInfo, ShardIndex, read_dataset, read_index
from pipeline.stop_signals import StopSignals
from pipeline.storage import Store, open_store

NUM_WORST = 6


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A model that is pinned down, and the split that it is evaluated on."""

    resolved: ResolvedModel
    weights: Weights
    config: encnet.ModelConfig
    protocol: Protocol
    store: Store
    dataset: DatasetInfo
    index: ShardIndex

    @property
    def key(self) -> str:
        return evaluation_key(self.weights.digest, self.dataset.digest, self.protocol)

    @property
    def evaluator(self) -> Evaluator:
        return Evaluator(
            weights=self.weights,
            protocol=self.protocol,
            store=self.store,
            index=self.index,
            num_classes=self.config.num_classes,
            num_chunks=count_chunks(self.index.width, self.index.height, self.protocol),
        )


def evaluate(model: str, protocol: Protocol, experiment: str = "encnet") -> Evaluation:
    """Evaluate `model` (MLflow URI or folder) and log the result to an MLflow run and to the model version.

    Raises InputError and PipelineError; Interrupted when a signal ended it.
    """
    return describe(_evaluate(_prepare(model, protocol), experiment))


def ensure_measured(model: str, protocol: Protocol, experiment: str = "encnet") -> Recorded:
    """The newest evaluation of these weights on this data by this protocol; where there is none, it is made."""
    return _ensure(_prepare(model, protocol), experiment).recorded


def evaluate_against(
    model: str, other: str, protocol: Protocol, experiment: str = "encnet"
) -> tuple[Evaluation, Evaluation, Difference]:
    """Both models by one protocol, evaluated where that was not done before, and how much better `model` is.

    The report of `model` shows the difference from then on.
    """
    jobs = [_prepare(one, protocol) for one in (model, other)]
    record, champion = (_ensure(job, experiment) for job in jobs)
    difference = record.over(champion)
    log_comparison(record, Comparison(other=champion, difference=difference))
    return describe(record), describe(champion), difference


def _prepare(model: str, protocol: Protocol) -> _Job:
    """Read the index and pin the model down. Raises InputError where they do not fit each other."""
    store = open_store(protocol.data)
    dataset = read_dataset(store)
    index = read_index(store, protocol.split, dataset)
    if not any(dataset.splits[protocol.split].class_pixels):
        raise InputError(f"split: {protocol.split!r} of {protocol.data} has no labelled pixel: choose another --split")
    tracking.connect()
    with resolve_model(model) as resolved:
        try:
            config = encnet.read_config(resolved.weights)
        except ValueError as error:
            raise InputError(f"MODEL: {error}") from None
        if config.num_classes != len(dataset.classes):
            raise InputError(
                f"data: {dataset.name!r} has {len(dataset.classes)} classes, but {resolved.uri} was trained for "
                f"{config.num_classes}: evaluate it on its own data set"
            )
        weights = Weights.read(resolved.weights)
    return _Job(
        resolved=resolved,
        weights=weights,
        config=config,
        protocol=protocol,
        store=store,
        dataset=dataset,
        index=index,
    )


def _ensure(job: _Job, experiment: str) -> Record:
    found = find_record(job.key)
    if found is None:
        return _evaluate(job, experiment)
    link_version(found, job.resolved)
    return found


def _evaluate(job: _Job, experiment: str) -> Record:
    with StopSignals():
        connect_ray()
        return _evaluate_chunks(job, experiment)


def _evaluate_chunks(job: _Job, experiment: str) -> Record:
    evaluator = job.evaluator
    chunks = KeptChunks(job.key, evaluator.num_chunks)
    tally = _count(job, evaluator, chunks)
    worst = worst_samples(tally.counts, NUM_WORST)
    pictures = _draw(job, evaluator, [sample for sample, _ in worst])
    facts = Facts(
        key=job.key,
        model_uri=job.resolved.uri,
        name=job.resolved.name,
        version=job.resolved.version,
        weights_digest=job.weights.digest,
        parameters=encnet.model_cost(job.config).inference.parameters,
        data_name=job.dataset.name,
        data_digest=job.dataset.digest,
        classes=job.dataset.classes,
        palette=job.dataset.palette,
        protocol=job.protocol,
        checks=_checks(job.index, tally),
        worst=tuple(WorstImage(key=job.index.keys[sample], miou=miou) for sample, miou in worst),
        commit=git_commit(),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    record = log_evaluation(facts, tally, pictures, job.resolved.model_id, experiment)
    chunks.forget()
    return record


def _count(job: _Job, evaluator: Evaluator, chunks: KeptChunks) -> Tally:
    """What all workers count together; raises PipelineError unless each sample was seen exactly once."""
    tallies, num_images = chunks.read(), len(job.index)
    shown = {"step": sum(len(tally.sample_ids) for tally in tallies.values()), "steps": num_images}

    def done(found: tuple[int, Tally]) -> None:
        chunk, tally = found
        chunks.keep(chunk, tally)
        tallies[chunk] = tally
        shown["step"] += len(tally.sample_ids)

    left = [chunk for chunk in range(evaluator.num_chunks) if chunk not in tallies]
    with ProgressView(f"evaluate {job.resolved.uri}", lambda: dict(shown), "image") as view:
        if shown["step"]:
            view.say(f"{shown['step']} of {num_images} images were counted before it was interrupted")
        on_ray(evaluator, left, done, num_tasks=job.protocol.num_workers, use_gpus=True)
    return join_tallies([tallies[chunk] for chunk in sorted(tallies)], num_images)


def _draw(job: _Job, evaluator: Evaluator, samples: Sequence[int]) -> list[bytes]:
    """JPEGs of samples beside what the model makes of them."""
    painter = Painter(evaluator=evaluator, classes=job.dataset.classes, palette=job.dataset.palette)
    shown = {"step": 0, "steps": len(samples)}

    def done(_: bytes) -> None:
        shown["step"] += 1

    with ProgressView("draw the worst images", lambda: dict(shown), "image"):
        return on_ray(painter, samples, done, num_tasks=job.protocol.num_workers, use_gpus=True)


def _checks(index: ShardIndex, tally: Tally) -> dict[str, str]:
    """What was looked at on the way. That each sample came once and classes fit was asked for before."""
    not_finite = [index.keys[sample] for sample in tally.not_finite.tolist()]
    fault = f"not so in {len(not_finite)} of {len(index)} images, e.g. {not_finite[0]!r}" if not_finite else ""
    return {"class count": "", "each sample once": "", "probabilities are numbers": fault}
