"""A resolved configuration -> a finished, tracked and registered run."""

from __future__ import annotations

import datetime
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

from pipeline import tracking
from pipeline.attempts import ENDED, newest_state, run_attempts
from pipeline.checkpoint import WEIGHTS, BrokenCheckpoint, RunState
from pipeline.checkpoint_store import CheckpointStore, best, open_checkpoints
from pipeline.cluster import connect_ray, run_board
from pipeline.config import RunConfig
from pipeline.errors import TrackingError, TrainingError, first_line
from pipeline.model_card import ModelCard
from pipeline.outbox import deliver
from pipeline.preconditions import check_classes, check_name, find_dataset, find_storage
from pipeline.provenance import git_commit, source_tags, versions
from pipeline.registration import example_image, register_model
from pipeline.registry import CANDIDATE
from pipeline.resume import run_store, store_config
from pipeline.run_board import View
from pipeline.shards import DatasetInfo, read_dataset, read_index
from pipeline.stop_signals import StopSignals
from pipeline.storage import open_store
from pipeline.timeline import Timeline
from pipeline.train_log import open_spool
from pipeline.trainer import check_workers

_logger = logging.getLogger(__name__)
REGISTER_PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run leaves."""

    name: str
    run_id: str
    run_url: str
    steps: int
    losses: list[float]
    """The loss of the global batch, one a step."""
    miou: float
    """Validation mIoU of the registered weights, in 0..1."""
    model_uri: str
    """The registered version: models:/NAME/VERSION; "" where it was not to be registered."""
    bad_samples: list[str]
    """A line for each training sample that could not be decoded: shard, key and reason."""


def resolve(config: RunConfig) -> tuple[RunConfig, DatasetInfo]:
    """Fill in what depends on the surroundings and check what can be checked before anything starts.

    Raises InputError for a data set, class count, storage or name that can't be used.
    """
    dataset = find_dataset(config)
    for split in (config.data.train_split, config.data.val_split):
        read_index(open_store(config.data.uri), split, dataset)
    check_classes(config, dataset)
    return replace(
        config,
        name=config.name or f"{config.recipe}-{datetime.datetime.now():%m%d-%H%M%S}",
        storage=find_storage(config.storage),
        registered_model=config.registered_model or f"encnet-{dataset.name}",
    ), dataset


def run_training(
    config: RunConfig,
    *,
    resume: bool = False,
    registers: bool = True,
    tags: Mapping[str, str] | None = None,
    signals: StopSignals | None = None,
    watch: Callable[[View], None] | None = None,
) -> TrainResult:
    """Train as `config` (resolved) says, and register the best weights as the candidate.

    A run that was resumed after it had ended is registered if it was not, and nothing else.

    Args:
        config: the resolved configuration.
        resume: go on with the run of that name.
        registers: False leaves the weights in their checkpoints; a resumed run may register them later.
        tags: of the MLflow run, besides those of every run.
        signals: what may ask for the end, in place of this process's own signals.
        watch: is shown the run's board, twice a second.

    Raises InputError when the name is taken and `resume` is not asked for, or another process drives the run,
    TrainingError when training failed, Interrupted when a signal ended it.
    """
    dataset = read_dataset(open_store(config.data.uri))
    client = tracking.connect()
    check_name(config, resume)
    connect_ray()
    check_workers(config)
    every_tag = {**_tags(config, dataset), **(tags or {})}
    with run_board(config.storage, config.name, resume=resume) as board, signals or StopSignals() as signals:
        store_config(config)
        run_id = tracking.open_run(client, config.experiment, config.name, every_tag)
        tracker = tracking.Tracker(run_id)
        with tracking.ending(tracker.finish):
            tracker.log_config(config.to_dict(), every_tag)
            tracker.log_dataset(dataset.name, config.data.uri, dataset.digest, "training")
            _train(config, run_id, signals, board, watch)
            return _finish(config, dataset, tracker, registers)


def _train(
    config: RunConfig, run_id: str, signals: StopSignals, board: Any, watch: Callable[[View], None] | None
) -> None:
    state = newest_state(open_checkpoints(config.storage, config.name))
    if state and state.ended in ENDED:
        return
    store = run_store(config.storage, config.name)
    with Timeline(store, lambda events: tracking.log_events(run_id, events)) as timeline:
        run_attempts(config, run_id, timeline, signals, board, watch)


def _finish(config: RunConfig, dataset: DatasetInfo, tracker: tracking.Tracker, registers: bool) -> TrainResult:
    """Register, also when MLflow is away for a while: what is trained is not to be lost for that."""
    try:
        return tracking.patiently(
            lambda: _conclude(config, dataset, tracker, registers), f"registering {config.name}", REGISTER_PATIENCE_S
        )
    except (tracking.Unreachable, tracking.NoServer) as error:
        raise TrackingError(
            f"run {config.name!r} is trained, but could not be registered ({first_line(error)}): finish it with "
            f"encnet train --resume {config.name}"
        ) from error


def _tags(config: RunConfig, dataset: DatasetInfo) -> dict[str, str]:
    return {
        "recipe": config.recipe,
        "architecture": config.model.arch,
        "data set": dataset.name,
        "data set digest": dataset.digest,
        **versions(),
        **source_tags(f"encnet train {config.recipe}"),
    }


def _conclude(config: RunConfig, dataset: DatasetInfo, tracker: tracking.Tracker, registers: bool) -> TrainResult:
    """See to it that MLflow has all of a run that has ended, and the registry its best weights."""
    checkpoints = open_checkpoints(config.storage, config.name)
    last = newest_state(checkpoints)
    if last is None:
        raise TrainingError(f"run {config.name!r} ended without a checkpoint in {checkpoints.uri()}")
    checkpoints.prune(config.checkpoint.keep_last, config.checkpoint.keep_best)
    deliver(tracker.run_id, last.points, open_spool(config))
    if last.bad_samples:
        tracker.log_table({"bad sample": last.bad_samples}, "bad_samples.json")
    if registers:
        model_uri, miou = _register(config, dataset, tracker.run_id, checkpoints, last.step)
    else:
        chosen = best(checkpoints.saved())
        model_uri, miou = "", chosen.miou if chosen else None
    return TrainResult(
        name=config.name,
        run_id=tracker.run_id,
        run_url=tracking.run_url(tracker.client, tracker.run_id),
        steps=last.step,
        losses=last.losses,
        miou=miou or 0.0,
        model_uri=model_uri,
        bad_samples=last.bad_samples,
    )


def _register(
    config: RunConfig, dataset: DatasetInfo, run_id: str, checkpoints: CheckpointStore, steps: int
) -> tuple[str, float | None]:
    """Make the best weights of a run of `steps` a version of the registered model; its URI and mIoU."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = fetch_best(checkpoints, folder)
        version = register_model(
            config.registered_model,
            folder / WEIGHTS,
            _card(config, dataset, run_id, state, steps),
            example=example_image(open_store(config.data.uri), config.data.val_split),
            tags={"recipe": config.recipe, "run": config.name, "git commit": git_commit()},
            alias=CANDIDATE,
        )
    return f"models:/{config.registered_model}/{version}", state.miou


def _card(config: RunConfig, dataset: DatasetInfo, run_id: str, state: RunState, steps: int) -> ModelCard:
    """What is to be said of the weights of `state`, of a run that went on to `steps`."""
    iou = (nan if each is None else each for each in state.iou)
    return ModelCard(
        config=config,
        dataset=dataset,
        run_id=run_id,
        commit=git_commit(),
        step=state.step,
        steps=steps,
        miou=state.miou or 0.0,
        iou=dict(zip(dataset.classes, iou, strict=True)) if state.iou else {},
    )


def fetch_best(checkpoints: CheckpointStore, folder: Path) -> RunState:
    """Download the weights with the highest mIoU that are whole into `folder`, as weights.safetensors.

    Raises TrainingError where there are none.
    """
    saved = [one for one in checkpoints.saved() if one.miou is not None]
    while chosen := best(saved):
        try:
            state = checkpoints.fetch_scored(chosen.name, folder)
        except BrokenCheckpoint as fault:
            _logger.warning("%s is broken (%s): the next best is registered", checkpoints.uri(chosen.name), fault)
            saved.remove(chosen)
        else:
            (folder / state.scored_weights).rename(folder / WEIGHTS)
            return state
    raise TrainingError(f"{checkpoints.uri()}: no checkpoint there was validated and is whole")
