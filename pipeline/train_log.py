"""What a training worker logs: curves and pictures of the run by rank 0, hardware by one worker of each node."""

from __future__ import annotations

from contextlib import ExitStack

import ray.train
import ray.util

import encnet
from pipeline.config import RunConfig
from pipeline.node_monitor import NodeMonitor
from pipeline.outbox import Outbox
from pipeline.resume import run_store
from pipeline.storage import Store
from pipeline.train_setup import Worker
from pipeline.validation import val_pictures


def open_spool(config: RunConfig) -> Store:
    """Where a run's pictures wait while MLflow does not take them."""
    return run_store(config.storage, f"{config.name}/outbox")


def open_outbox(stack: ExitStack, worker: Worker, run_id: str) -> Outbox | None:
    """Begin to log, until `stack` is closed; the outbox on rank 0, None on others."""
    context = ray.train.get_context()
    if context.get_local_rank() == 0:
        stack.enter_context(NodeMonitor(run_id, ray.util.get_node_ip_address()))
    if worker.world.rank != 0:
        return None
    return stack.enter_context(Outbox(run_id, worker.state.points, spool=open_spool(worker.config)))


def log_points(worker: Worker, points: dict[int, dict[str, float]]) -> None:
    """Take what training measured, step -> name -> value, of which all is new, and forget it; on rank 0."""
    if worker.outbox is not None:
        for step, values in points.items():
            worker.outbox.add(step, {**values, "train/world_size": worker.world.size})
    points.clear()


def log_scores(worker: Worker, matrix: encnet.ConfusionMatrix) -> None:
    """Take what a validation of the weights as they are found; on rank 0."""
    if worker.outbox is not None:
        per_class = zip(worker.dataset.classes, matrix.iou.tolist(), strict=True)
        scores = {"val/miou": matrix.mean_iou, "val/pix_acc": matrix.pix_acc}
        worker.outbox.add(worker.state.step, scores | {f"val/iou/{name}": iou for name, iou in per_class})


def log_pictures(worker: Worker, step: int) -> None:
    """Send pictures of the same few validation samples, as the network sees them at `step`; on rank 0."""
    if worker.outbox is not None:
        for number, picture in enumerate(val_pictures(worker)):
            worker.outbox.picture(picture, f"{worker.config.data.val_split}_{number:02d}", step)
