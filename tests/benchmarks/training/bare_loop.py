"""What one would write by hand: DDP under torchrun, with our network, loader, losses and optimizer, and nothing else.

No requests between ranks, no gradient norm, no curves, no checkpoints, no Ray. Only for recipes without
micro-batches, clipping, averaging and mixed precision.

python -m torch.distributed.run --standalone --nproc-per-node=2 -m tests.benchmarks.training.bare_loop CONFIG RESULT
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import encnet
from pipeline.config import RunConfig
from pipeline.loader import TrainLoader
from pipeline.optim import set_learning_rate
from pipeline.schedule import learning_rate, num_steps
from pipeline.train_setup import Worker, open_loader, setup
from pipeline.world import World
from tests.benchmarks.training.job import Job

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True)
class BareRun:
    """A bare loop that has ended."""

    times: dict[int, float]
    """Steps done -> when that was so, in seconds since the epoch, on rank 0."""
    losses: list[float]
    """Of the global batch, one a step."""


class _Step(NamedTuple):
    """What the loop keeps of a step."""

    ended: float
    loss: Tensor
    """This rank's share of the global batch's, ()."""


def run_bare(job: Job, workers: int) -> BareRun:
    """Train on `workers` processes of this machine. Raises CalledProcessError when they fail."""
    with tempfile.TemporaryDirectory(prefix="encnet-bare-") as folder:
        config, result = Path(folder, "config.json"), Path(folder, "result.json")
        config.write_text(json.dumps(job.config.to_dict()))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
        # The interface that the stack's workers use as well, and the number of threads that Ray sets for them.
        environ = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": str(job.config.workers.cpus)}
        command = [*torchrun, "-m", __spec__.name, str(config), str(result)]
        subprocess.run(command, cwd=ROOT, env=environ, check=True)
        found = json.loads(result.read_text())
    return BareRun(times={int(step): at for step, at in found["times"].items()}, losses=found["losses"])


def train(worker: Worker, loader: TrainLoader) -> list[_Step]:
    """All steps of the recipe."""
    config, done = worker.config, []
    steps = num_steps(len(worker.train_index), config.optim)
    for step in range(steps):
        batch = next(loader)
        set_learning_rate(worker.optimizer, learning_rate(step, steps, config.optim))
        worker.optimizer.zero_grad(set_to_none=True)
        encnet.set_dropout_key(worker.net, config.seed, step, batch.positions)
        output = worker.model(worker.normalize(batch.images), upsample=False)
        loss = worker.loss(output, batch.labels).total
        (loss * worker.world.size).backward()  # DDP takes the mean over ranks of what adds up
        worker.optimizer.step()
        done.append(_Step(time.time(), loss.detach()))
    return done


def main(config_file: Path, result_file: Path) -> None:
    """One rank of torchrun's."""
    config = RunConfig.from_dict(json.loads(config_file.read_text()))
    torch.set_num_threads(config.workers.cpus)
    dist.init_process_group("gloo")
    try:
        worker = setup(config, World(dist.get_rank(), dist.get_world_size()), torch.device("cpu"))
        with open_loader(worker) as loader:
            done = train(worker, loader)
        losses = torch.stack([step.loss for step in done])
        dist.all_reduce(losses)
        if worker.world.rank == 0:
            times = {number: step.ended for number, step in enumerate(done, start=1)}
            result_file.write_text(json.dumps({"times": times, "losses": losses.tolist()}))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
