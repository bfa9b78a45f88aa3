"""A Ray Train worker's life: set up, go on from the newest checkpoint where there is one, train.

Which samples make up a step, how each is augmented, BatchNorm's statistics, the loss's normalisation and dropout
depend on (seed, step) only: the same recipe gives the same losses on any number of workers.
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch.distributed as dist

from pipeline.checkpoint import load_checkpoint
from pipeline.checkpoint_store import CheckpointStore, open_checkpoints
from pipeline.cluster import open_pulse
from pipeline.config import RunConfig
from pipeline.fit import fit
from pipeline.numerics import is_emulated, numerics
from pipeline.train_log import open_outbox
from pipeline.train_setup import Worker, begin, setup
from pipeline.world import World


def train_worker(job: dict[str, Any]) -> None:
    """The whole of a worker's life.

    `job`: {"config": a resolved RunConfig as dict, "run_id", "board", "beside": whether Ray validates checkpoints}.
    """
    # Ray Train sets it to INFO: notes of Ray and botocore would drown the progress.
    logging.getLogger().setLevel(logging.WARNING)
    config = RunConfig.from_dict(job["config"])
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    with ExitStack() as stack:
        board, device = job.get("board"), ray.train.torch.get_device()
        pulse = stack.enter_context(open_pulse(board, world))
        stack.enter_context(numerics(config, device))
        worker = setup(config, world, device, board, pulse)
        if is_emulated(config, device):
            worker.note("slow precision", f"this CPU emulates {config.precision}: --precision float32 is far faster", 0)
        if world.rank == 0:
            pulse.at(0, "start")  # the others wait for what it reads: the newest checkpoint, or the start weights
        checkpoints = open_checkpoints(config.storage, config.name)
        if not resume(worker, checkpoints):
            begin(worker)
        pulse.at(worker.state.step, "ready")
        worker.outbox = open_outbox(stack, worker, job["run_id"])
        fit(worker, checkpoints, pulse, beside=job.get("beside", False))


def resume(worker: Worker, checkpoints: CheckpointStore) -> bool:
    """Go on where the newest checkpoint that is whole left off, on all ranks the same; False where there is none.

    Newer ones that are broken are deleted, since their steps are done again, and the run's timeline says so.
    """
    with tempfile.TemporaryDirectory(prefix="encnet-resume-") as name:
        folder = Path(name)
        found = checkpoints.fetch_newest(folder) if worker.world.rank == 0 else None
        chosen = [found.name if found else ""]
        if worker.world.size > 1:
            dist.broadcast_object_list(chosen, src=0)
        if not chosen[0]:
            return False
        if found is None:
            checkpoints.fetch(chosen[0], folder)
        ema = worker.ema.net if worker.ema else None
        worker.state = load_checkpoint(
            folder, worker.net, ema, worker.optimizer, worker.scaler, worker.state, worker.device
        )
    for broken, fault in found.skipped.items() if found else ():
        worker.note("broken checkpoint", f"{broken}: {fault}; going on from {chosen[0]}", worker.state.step)
        checkpoints.delete(broken)
    return True
