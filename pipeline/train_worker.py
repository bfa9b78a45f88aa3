"""The training loop that every Ray Train worker runs: setup -> fit -> validate, one function a phase.

Which samples make up a step, how each is augmented, BatchNorm's statistics, the loss's normalisation and dropout
depend on (seed, step) only: the same recipe gives the same losses on any number of workers.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import ray.train
import torch.distributed as dist

import encnet
from pipeline.bad_samples import too_many
from pipeline.checkpoint import save_checkpoint
from pipeline.config import RunConfig
from pipeline.meter import Meter
from pipeline.optim import epoch_end, num_steps
from pipeline.tracking import Tracker
from pipeline.train_setup import Worker, open_loader, setup
from pipeline.train_step import base_lr, train_step
from pipeline.validation import val_pictures, validate
from pipeline.world import World

LOG_EVERY_STEPS = 5


def train_worker(job: dict[str, Any]) -> None:
    """The whole of a worker's life. `job`: {"config": a resolved RunConfig as dict, "run_id", "board"}."""
    # Ray Train sets it to INFO: notes of Ray and botocore would drown the progress.
    logging.getLogger().setLevel(logging.WARNING)
    config = RunConfig.from_dict(job["config"])
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    with ExitStack() as stack:
        worker = setup(config, world, job.get("board"))
        if world.rank == 0:
            node = ray.util.get_node_ip_address()
            worker.tracker = stack.enter_context(Tracker(job["run_id"], system_metrics=True, node=node))
        fit(worker)


def fit(worker: Worker) -> None:
    """Train to the last step; validate, checkpoint and log at the ends of epochs."""
    config, samples = worker.config, len(worker.train_index)
    batch_size = config.optim.batch_size
    steps = num_steps(samples, config.optim)
    meter = Meter(steps, batch_size, samples, worker.state.losses, worker.post)
    with open_loader(worker) as loader:
        for step in range(worker.state.step, steps):
            micro_batches = [next(loader) for _ in range(batch_size // loader.micro_batch)]
            lr = base_lr(worker, step, steps)
            meter.add(train_step(worker, step, lr, micro_batches))
            epoch = step * batch_size // samples
            at_end = step + 1 == steps
            ends_epoch = step + 1 == epoch_end(epoch, samples, batch_size)
            if at_end or ends_epoch or (step + 1) % LOG_EVERY_STEPS == 0:
                meter.flush(step + 1, lr, loader.metrics.wait_s)
            if at_end or (ends_epoch and (epoch + 1) % config.validation.every_epochs == 0):
                finish_epoch(worker, meter, step + 1, all_bad_samples(worker, loader.bad_samples))


def all_bad_samples(worker: Worker, ours: list[str]) -> list[str]:
    """The bad samples of all ranks, and of the run before it was resumed. DataError when they are too many together."""
    of_ranks = [ours]
    if worker.world.size > 1:
        of_ranks = [[] for _ in range(worker.world.size)]
        dist.all_gather_object(of_ranks, ours)
    found = sorted({*worker.state.bad_samples, *chain.from_iterable(of_ranks)})
    if len(found) > worker.config.data.max_bad_samples:
        raise too_many(found, worker.config.data.max_bad_samples)
    return found


def finish_epoch(worker: Worker, meter: Meter, step: int, bad_samples: list[str]) -> None:
    """Validate, hand the checkpoint to Ray, log."""
    matrix = validate(worker)
    miou = matrix.mean_iou
    worker.state = replace(
        worker.state,
        step=step,
        samples=step * worker.config.optim.batch_size,
        miou=miou,
        best_miou=max(miou, worker.state.best_miou),
        losses=list(meter.losses),
        bad_samples=bad_samples,
    )
    checkpoint = None
    if worker.world.rank == 0:
        folder = Path(tempfile.mkdtemp(prefix="encnet-checkpoint-"))
        try:
            save_checkpoint(folder, worker.net, worker.config.model, worker.optimizer, worker.scaler, worker.state)
        except BaseException:
            shutil.rmtree(folder)
            raise
        checkpoint = ray.train.Checkpoint.from_directory(folder)
    # The upload runs beside training, and removes the folder when it is done.
    ray.train.report(
        {"miou": miou, "step": step},
        checkpoint,
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        checkpoint_dir_name=f"step_{step:07d}",
    )
    worker.post(miou=miou)
    if worker.tracker:
        log_epoch(worker, meter, matrix, step)
    meter.restart_clock()


def log_epoch(worker: Worker, meter: Meter, matrix: encnet.ConfusionMatrix, step: int) -> None:
    """Write an epoch's points, per-class IoU and pictures to MLflow."""
    assert worker.tracker is not None
    scores = {"val/miou": matrix.mean_iou, "val/pix_acc": matrix.pix_acc}
    for name, iou in zip(worker.dataset.classes, matrix.iou.tolist(), strict=True):
        scores[f"val/iou/{name}"] = iou
    worker.tracker.log_metrics({**meter.points, step: {**meter.points.get(step, {}), **scores}})
    meter.points.clear()
    for number, picture in enumerate(val_pictures(worker)):
        worker.tracker.log_picture(picture, f"{worker.config.data.val_split}_{number}", step)
