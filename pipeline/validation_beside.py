"""Validation of a checkpoint beside training, in a task of its own: Ray Train's asynchronous validation.

The task loads the checkpoint from storage, scores the whole split by itself, logs to MLflow as the loop would, and puts
the score beside the checkpoint, where whoever reads the checkpoint's state finds it.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import torch

import encnet
from pipeline.checkpoint import BrokenCheckpoint
from pipeline.checkpoint_store import open_checkpoints
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.numerics import numerics
from pipeline.outbox import Outbox
from pipeline.train_log import log_pictures, log_scores, open_spool
from pipeline.train_setup import setup
from pipeline.validation import validate
from pipeline.world import World

_logger = logging.getLogger(__name__)


def is_beside(config: RunConfig, resources: dict[str, float], needs: dict[str, float]) -> bool:
    """Whether validation runs beside training on a cluster with `resources`, of which a worker takes `needs`.

    auto: where a GPU is left for it. On CPUs all workers together are quicker, and stopping early needs the score at
    once. Raises InputError where "beside" is asked for and there is no room, or early stopping too.
    """
    where, workers = config.validation.where, config.workers
    room = all((workers.num + 1) * need <= resources.get(kind, 0) for kind, need in needs.items())
    if where == "beside" and config.validation.patience:
        raise InputError(
            "validation.where: 'beside' gives the scores too late for validation.patience: use in_loop, or patience 0"
        )
    if where == "beside" and not room:
        each = " and ".join(f"{need:g} {kind}" for kind, need in needs.items())
        raise InputError(
            f"validation.where: 'beside' needs {each} more than {workers.num} workers take, which the cluster does not "
            "have: use in_loop, or fewer workers"
        )
    return where == "beside" or (where == "auto" and room and "GPU" in needs and not config.validation.patience)


def validation_config(config: RunConfig, run_id: str, needs: dict[str, float]) -> ray.train.ValidationConfig:
    """How Ray Train runs the validation of a checkpoint."""
    return ray.train.ValidationConfig(
        fn=validate_checkpoint,
        task_config=ray.train.ValidationTaskConfig(fn_kwargs={"config": config.to_dict(), "run_id": run_id}),
        ray_remote_kwargs={"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0), "max_retries": 3},
    )


def validate_checkpoint(checkpoint: ray.train.Checkpoint, **job: Any) -> dict[str, Any]:
    """Score a checkpoint of the run, known by its name; {} when there is none of that name on storage any more.

    `job`: {"config": a resolved RunConfig as dict, "run_id"}.
    """
    logging.getLogger().setLevel(logging.WARNING)
    run = RunConfig.from_dict(job["config"])
    checkpoints, name = open_checkpoints(run.storage, run.name), Path(checkpoint.path).name
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="encnet-validation-") as place, numerics(run, device):
        folder = Path(place)
        try:
            state = checkpoints.fetch_scored(name, folder)
        except BrokenCheckpoint as fault:
            _logger.warning("%s can't be validated: %s", checkpoints.uri(name), fault)
            return {}
        worker = setup(run, World(), device)
        encnet.load_weights(worker.result, folder / state.scored_weights)
        worker.state = state
        matrix = validate(worker)
        with Outbox(job["run_id"], spool=open_spool(run)) as worker.outbox:
            log_scores(worker, matrix)
            worker.outbox.commit(state.step)
            log_pictures(worker, state.step)
        worker.outbox.put_points_aside(name)
    checkpoints.write_scores(name, matrix.mean_iou, matrix.iou.tolist())
    return {"miou": matrix.mean_iou}
