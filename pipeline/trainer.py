"""Ray Train wiring: one attempt at a run as a `TorchTrainer`, and the room that its workers need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline.cluster import split_storage
from pipeline.config import RunConfig
from pipeline.environment import overridden
from pipeline.errors import InputError
from pipeline.resume import run_store, runs_uri
from pipeline.train_worker import train_worker
from pipeline.validation_beside import is_beside, validation_config

_RAY = "ray"
"""Ray Train's own bookkeeping, in the run's folder: a subfolder for each attempt."""
_ATTEMPT = "attempt_"


def next_attempt(config: RunConfig) -> int:
    """The number of the next attempt at a run, from 1."""
    keys = run_store(config.storage, config.name).list(f"{_RAY}/{_ATTEMPT}")
    return 1 + max((int(key.split("/")[1].removeprefix(_ATTEMPT)) for key in keys), default=0)


def build_trainer(config: RunConfig, run_id: str, board: Any, attempt: int) -> TorchTrainer:
    """Attempt number `attempt` at a run.

    Ray Train is to start workers, watch them and end with the first failure. Its run has a name of its own: it would
    look for the checkpoints of an earlier one of the same name, and those are kept by us.
    """
    workers, needs = config.workers, worker_needs(config)
    beside = is_beside(config, ray.cluster_resources(), needs)
    filesystem, path = split_storage(f"{runs_uri(config.storage)}/{config.name}/{_RAY}")
    return TorchTrainer(
        train_worker,
        train_loop_config={"config": config.to_dict(), "run_id": run_id, "board": board, "beside": beside},
        torch_config=TorchConfig(timeout_s=max(1, round(workers.collective_timeout_s))),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(workers.fewest, workers.num) if workers.fewest < workers.num else workers.num,  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=workers.resize_every_s,  # type: ignore[call-arg]
            use_gpu=use_gpu(config),
            resources_per_worker=needs,
        ),
        validation_config=validation_config(config, run_id, needs) if beside else None,
        run_config=ray.train.RunConfig(
            name=f"{_ATTEMPT}{attempt:03d}",
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=0, max_preemption_failures=0),  # type: ignore[call-arg]
        ),
    )


@contextmanager
def trainer_environment(config: RunConfig) -> Iterator[None]:
    """The variables by which Ray Train takes settings that its own arguments do not have."""
    timeout_s = f"{config.workers.collective_timeout_s:g}"
    with overridden(
        {
            "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": timeout_s,
            "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": timeout_s,
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
        }
    ):
        yield


def use_gpu(config: RunConfig) -> bool:
    """Whether workers get a GPU each."""
    if config.workers.gpu != "auto":
        return config.workers.gpu == "yes"
    return bool(ray.cluster_resources().get("GPU", 0) >= config.workers.fewest)


def check_workers(config: RunConfig) -> None:
    """Raise InputError for more workers than the cluster holds: Ray would wait for them for ever."""
    resources, fewest = ray.cluster_resources(), config.workers.fewest
    for kind, each in worker_needs(config).items():
        if fewest * each > resources.get(kind, 0):
            field = "least" if config.workers.least else "num"
            raise InputError(
                f"workers.{field}: {fewest} workers need {fewest * each:g} {kind}s, but the cluster has "
                f"{resources.get(kind, 0):.0f}: ask for fewer with --num-workers"
            )
    is_beside(config, resources, worker_needs(config))


def worker_needs(config: RunConfig) -> dict[str, float]:
    """What a worker needs of its node."""
    return {"CPU": float(config.workers.cpus)} | ({"GPU": 1.0} if use_gpu(config) else {})
