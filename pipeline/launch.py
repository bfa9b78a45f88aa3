"""Ray Train wiring: a resolved configuration -> a finished, tracked and registered run."""

from __future__ import annotations

import datetime
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray
import ray.train
from ray.train.torch import TorchTrainer

from pipeline import tracking
from pipeline.checkpoint import WEIGHTS, read_state
from pipeline.cluster import connect_ray, progress, split_storage
from pipeline.config import RunConfig
from pipeline.errors import InputError, PipelineError, TrainingError
from pipeline.eval_loader import EvalLoader
from pipeline.registry import CANDIDATE, register_model
from pipeline.shards import DatasetInfo, read_dataset, read_index
from pipeline.storage import open_store
from pipeline.train_worker import train_worker
from pipeline.world import World

EXAMPLE_SIDE = 128


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
    """The registered version: models:/NAME/VERSION."""
    bad_samples: list[str]
    """A line for each training sample that could not be decoded: shard, key and reason."""


def resolve(config: RunConfig) -> tuple[RunConfig, DatasetInfo]:
    """Fill in what depends on the surroundings and check what can be checked before anything starts.

    Raises InputError for a data set, class count, storage or name that can't be used.
    """
    if not config.data.uri:
        raise InputError("data.uri: empty: name the data set with --data s3://BUCKET/PREFIX or a folder")
    store = open_store(config.data.uri)
    dataset = read_dataset(store)
    for split in (config.data.train_split, config.data.val_split):
        read_index(store, split)
    if config.model.num_classes != len(dataset.classes):
        raise InputError(
            f"model.num_classes: {config.model.num_classes}, but {config.data.uri} has {len(dataset.classes)} classes: "
            f"use a recipe for this data set, or --model.num-classes {len(dataset.classes)}"
        )
    storage = config.storage or os.environ.get("ENCNET_STORAGE", "")
    if not storage:
        raise InputError("storage: empty: run 'encnet stack up', or give --storage s3://BUCKET/PREFIX or a folder")
    return replace(
        config,
        name=config.name or f"{config.recipe}-{datetime.datetime.now():%m%d-%H%M%S}",
        storage=storage,
        registered_model=config.registered_model or f"encnet-{dataset.name}",
    ), dataset


def run_training(config: RunConfig, *, resume: bool = False) -> TrainResult:
    """Train as `config` (resolved) says, and register the best weights as the candidate.

    Raises InputError when the name is taken and `resume` is not asked for, TrainingError when training failed.
    """
    dataset = read_dataset(open_store(config.data.uri))
    client = tracking.connect()
    _check_name(config, resume)
    connect_ray()
    _check_workers(config)
    run_id = tracking.open_run(client, config.experiment, config.name, _tags(config, dataset))
    tracker = tracking.Tracker(run_id)
    status = "FAILED"
    try:
        tracker.log_config(config.to_dict(), {"data set digest": dataset.digest})
        tracker.log_dataset(dataset.name, config.data.uri, dataset.digest, "training")
        result = _fit(config, run_id)
        trained = _register(config, dataset, tracker, result)
        status = "FINISHED"
        return trained
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)


def _tags(config: RunConfig, dataset: DatasetInfo) -> dict[str, str]:
    return {
        "recipe": config.recipe,
        "architecture": config.model.arch,
        "data set": dataset.name,
        "mlflow.source.git.commit": tracking.git_commit(),
        "mlflow.source.name": f"encnet train {config.recipe}",
        "mlflow.source.type": "PROJECT",
        "mlflow.user": os.environ.get("USER", "encnet"),
    }


def _runs(config: RunConfig) -> str:
    return f"{config.storage.rstrip('/')}/runs"


def _check_name(config: RunConfig, resume: bool) -> None:
    used = bool(open_store(_runs(config)).list(f"{config.name}/"))
    if used and not resume:
        raise InputError(f"name: {config.name!r} is used already: add --resume to go on, or choose another --name")
    if resume and not used:
        raise InputError(f"resume: no run {config.name!r} in {_runs(config)}: check --name and --storage")


def _use_gpu(config: RunConfig) -> bool:
    if config.workers.gpu != "auto":
        return config.workers.gpu == "yes"
    return bool(ray.cluster_resources().get("GPU", 0) >= config.workers.num)


def _check_workers(config: RunConfig) -> None:
    """Raise InputError for more workers than the cluster holds: Ray would wait for them for ever."""
    resources = ray.cluster_resources()
    needs = {"CPU": config.workers.num * config.workers.cpus, "GPU": config.workers.num if _use_gpu(config) else 0}
    for kind, need in needs.items():
        if need > resources.get(kind, 0):
            raise InputError(
                f"workers.num: {config.workers.num} workers need {need} {kind}s, but the cluster has "
                f"{resources.get(kind, 0):.0f}: ask for fewer with --num-workers"
            )


def _fit(config: RunConfig, run_id: str) -> ray.train.Result:
    use_gpu = _use_gpu(config)
    filesystem, path = split_storage(_runs(config))
    with progress(config.name, "step") as board:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"config": config.to_dict(), "run_id": run_id, "board": board},
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.workers.num,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": config.workers.cpus} | ({"GPU": 1} if use_gpu else {}),
            ),
            run_config=ray.train.RunConfig(
                name=config.name,
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(max_failures=config.workers.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(
                    num_to_keep=config.validation.keep_checkpoints, checkpoint_score_attribute="miou"
                ),
            ),
        )
        try:
            return trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _explain(error, config) from error


def _explain(error: ray.train.TrainingFailedError, config: RunConfig) -> Exception:
    """The first worker's own error where it is one of ours, else a TrainingError that says how to go on."""
    failures = getattr(error, "worker_failures", {}) or {0: getattr(error, "controller_failure", error)}
    rank, cause = min(failures.items())
    while deeper := _within(cause):
        cause = deeper
    if isinstance(cause, (PipelineError, InputError)):
        return type(cause)(*cause.args)
    reason = " ".join(str(cause).split())[-400:]
    return TrainingError(
        f"run {config.name!r}: worker {rank} failed: {type(cause).__name__}: {reason}; what is checkpointed is kept in "
        f"{_runs(config)}/{config.name}: go on with --resume --name {config.name}"
    )


def _within(error: BaseException) -> BaseException | None:
    """The error that `error` wraps or came from; None for one of ours, and for the first of all."""
    wrapped = getattr(error, "cause", None) or getattr(error, "_base_exc", None)
    if wrapped is None and not isinstance(error, (PipelineError, InputError)):
        return error.__cause__
    return wrapped


def _example(config: RunConfig) -> np.ndarray:
    """A small real image (H, W, 3), shown with the registered model as its input example."""
    store = open_store(config.data.uri)
    first = EvalLoader(store, read_index(store, config.data.val_split), world=World(), lookahead=1)
    image = next(iter(first)).images[0].numpy()
    every = -(-max(image.shape) // EXAMPLE_SIDE)
    return np.ascontiguousarray(image[::every, ::every])


def _register(
    config: RunConfig, dataset: DatasetInfo, tracker: tracking.Tracker, result: ray.train.Result
) -> TrainResult:
    best = result.get_best_checkpoint("miou", "max")
    if best is None or result.checkpoint is None:
        raise TrainingError(f"run {config.name!r} ended without a checkpoint in {_runs(config)}")
    with tempfile.TemporaryDirectory() as folder:
        last_state = read_state(Path(result.checkpoint.to_directory(f"{folder}/last")))
        if last_state.bad_samples:
            tracker.log_table({"bad sample": last_state.bad_samples}, "bad_samples.json")
        chosen = Path(best.to_directory(f"{folder}/best"))
        state = read_state(chosen)
        version = register_model(
            config.registered_model,
            chosen / WEIGHTS,
            dataset,
            run_id=tracker.run_id,
            example=_example(config),
            metrics={"val/best_miou": state.miou},
            step=state.step,
            tags={"recipe": config.recipe, "run": config.name, "git commit": tracking.git_commit()},
            alias=CANDIDATE,
        )
    return TrainResult(
        name=config.name,
        run_id=tracker.run_id,
        run_url=tracking.run_url(tracker.client, tracker.run_id),
        steps=last_state.step,
        losses=last_state.losses,
        miou=state.miou,
        model_uri=f"models:/{config.registered_model}/{version}",
        bad_samples=last_state.bad_samples,
    )
