"""The run is a function of the recipe: 30 steps of a real recipe on 1, 2, 3 and 4 workers, and resumed on others.

The workers are processes of a gloo group that do what a Ray Train worker does: the same setup, loader, step and
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from pipeline.checkpoint import load_checkpoint, take_snapshot, write_snapshot
from pipeline.config import RunConfig
from pipeline.numerics import numerics
from pipeline.schedule import learning_rate
from pipeline.train_setup import Worker, open_loader, setup
from pipeline.train_step import train_step
from pipeline.world import World
from tests.drills.epochs import write_scenes
from tests.unit.encnet.ranks import TIMEOUT_S, Ranks
from workflows.recipes import RECIPES

STEPS, STOPPED_AT = 30, 17
BATCH_SIZE = 4
LR = 1.5e-5
RECIPE_LR = 0.01
"""A rate that one would train at."""
MOST = 4
CPU = torch.device("cpu")
SMALL = {
    "augment.crop_size": [64, 64],
    "model.input_scale": 1.0,
    "model.lateral": False,
    "model.head_channels": 32,
    "data.window": 8,
    "data.block_bytes": 16_000,
    "data.threads": 1,
    "optim.batch_size": BATCH_SIZE,
    "optim.max_steps": STEPS,
    "optim.kind": "sgd",
    "optim.warmup_steps": 0,
    # At larger rates a network from scratch magnifies rounding beyond the bounds of float32: a change of 1e-7 moves
    # about one ReLU in 1e7 over its kink, and a sum that n random terms make up changes by the root of the share.
    "optim.lr": LR,
    "optim.head_lr_factor": 10.0,
    "optim.ema_decay": 0.9,
}


@dataclass
class Run:
    """What a rank saw of a run; or all ranks together."""

    losses: NDArray[np.float64]
    """(steps, 5): what `train_step` gave, summed over ranks."""
    samples: list[list[tuple[int, int]]]
    """Of each step, lane and sample of all that was trained on, in order."""
    weights: dict[str, NDArray[Any]]
    """All of the network and of its moving average, which is called ema.*."""


def small_config(data: str) -> RunConfig:
    """The recipe of the embedded data set, small enough to take seconds."""
    return RECIPES["context_scenes_r18"]().override({**SMALL, "data.uri": data})


def train(
    rank: int, size: int, values: dict[str, Any], rendezvous: Path, folder: Path, first: int, stop: int, double: bool
) -> Run | None:
    """Steps `first` to `stop` on the first `size` ranks: from the checkpoint in `folder`, or to it."""
    config = RunConfig.from_dict(values)
    with _group(rank, size, rendezvous):
        if rank >= size:
            return None
        with numerics(config, CPU):
            worker = setup(config, World(rank, size), CPU)
            if double:
                _compute_in_float64(worker)
            return _train(worker, folder, first, stop)


def _compute_in_float64(worker: Worker) -> None:
    """Rounding is 1e-9 of what it was then; what is left between worlds is what they do differently."""
    assert worker.ema is not None
    for module in (worker.net, worker.ema.net, worker.loss):
        module.double()
    if worker.world.size > 1:
        worker.model = DistributedDataParallel(worker.net, forward_sync_buffers=False)
    worker.normalize = lambda images: Worker.normalize(worker, images).double()  # type: ignore[method-assign]


def _train(worker: Worker, folder: Path, first: int, stop: int) -> Run:
    assert worker.ema is not None
    held = (worker.net, worker.ema.net, worker.optimizer, worker.scaler)
    if first:
        worker.state = load_checkpoint(folder, *held, worker.state, CPU)
        assert worker.state.step == first
    rows, samples = [], []
    with open_loader(worker) as loader:
        for step in range(first, stop):
            batches = [next(loader) for _ in range(BATCH_SIZE // loader.micro_batch)]
            rows.append(train_step(worker, step, learning_rate(step, STEPS, worker.config.optim), batches))
            lanes, ids = torch.cat([b.positions for b in batches]), torch.cat([b.sample_ids for b in batches])
            samples.append(list(zip(lanes.tolist(), ids.tolist(), strict=True)))
    table = torch.stack(rows).double()
    if worker.world.size > 1:
        dist.all_reduce(table)
    if stop < STEPS and worker.world.rank == 0:
        state = replace(worker.state, step=stop, samples=stop * BATCH_SIZE)
        write_snapshot(folder, take_snapshot(*held, state))
    tensors = {**worker.net.state_dict(), **{f"ema.{n}": t for n, t in worker.ema.net.state_dict().items()}}
    return Run(table.numpy(), samples, {name: tensor.double().numpy() for name, tensor in tensors.items()})


@contextmanager
def _group(rank: int, size: int, rendezvous: Path) -> Iterator[None]:
    """A gloo group of the first `size` ranks, in place of that of all of them; none for a single one."""
    if dist.is_initialized():
        dist.destroy_process_group()
    if rank < size > 1:
        timeout = timedelta(seconds=TIMEOUT_S)
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size, timeout=timeout)
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@dataclass
class Cluster:
    """Processes that train the recipe on as many workers as asked for."""

    ranks: Ranks
    data: str
    folder: Path
    count: Iterator[int] = field(default_factory=count)
    """Of runs: each needs a rendezvous of its own."""

    def run(
        self, size: int, micro_batch: int, *, first: int = 0, stop: int = STEPS, lr: float = LR, double: bool = False
    ) -> Run:
        """Steps `first` to `stop` on `size` workers; where `stop` is not the last, they leave a checkpoint."""
        place = self.folder / f"g{micro_batch}"
        place.mkdir(exist_ok=True)
        config = small_config(self.data).override({"optim.micro_batch": micro_batch, "optim.lr": lr})
        rendezvous = self.folder / f"group-{next(self.count)}"
        answers = self.ranks.run(train, size, config.to_dict(), rendezvous, place, first, stop, double)
        parts = [answer for answer in answers if answer is not None]
        together = zip(*(part.samples for part in parts), strict=True)
        return replace(parts[0], samples=[sorted(pair for of_rank in step for pair in of_rank) for step in together])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Up to four workers, and a small data set on this machine."""
    folder = tmp_path_factory.mktemp("invariance")
    write_scenes(str(folder / "scenes"), 40, num_val=4)
    ranks = Ranks(MOST, folder)
    yield Cluster(ranks, str(folder / "scenes"), folder)
    ranks.close()


@pytest.fixture(scope="module", params=[BATCH_SIZE, BATCH_SIZE // 2], ids=["whole-batch", "half-batches"])
def micro_batch(request: pytest.FixtureRequest) -> int:
    """G: the images of a micro-step."""
    return int(request.param)


@pytest.fixture(scope="module")
def alone(cluster: Cluster, micro_batch: int) -> Run:
    """The run on one worker."""
    return cluster.run(1, micro_batch)


def assert_same(run: Run, expected: Run, first: int = 0) -> None:
    """Within what the project promises: samples the same, losses 1e-5 relative at every step, weights 1e-4."""
    assert run.samples == expected.samples[first:]
    off = np.abs(run.losses[:, 0] / expected.losses[first:, 0] - 1)
    apart = {
        name: np.abs(run.weights[name] - w).max() / max(1, np.abs(w).max()) for name, w in expected.weights.items()
    }
    worst = max(apart, key=lambda name: apart[name])
    print(f"losses {off.max():.1e} at step {first + off.argmax()}, weights {apart[worst]:.1e} in {worst}")
    assert off.max() < 1e-5
    assert apart[worst] < 1e-4, worst


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_run_does_not_depend_on_its_workers(cluster: Cluster, micro_batch: int, alone: Run, size: int) -> None:
    assert_same(cluster.run(size, micro_batch), alone)


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(cluster: Cluster, micro_batch: int, alone: Run) -> None:
    cluster.run(2, micro_batch, stop=STOPPED_AT)
    assert_same(cluster.run(3, micro_batch, first=STOPPED_AT), alone, first=STOPPED_AT)


@pytest.mark.long
def test_but_for_rounding_a_run_does_not_depend_on_its_workers_at_a_usual_rate(cluster: Cluster) -> None:
    alone, shared = (cluster.run(size, BATCH_SIZE // 2, lr=RECIPE_LR, double=True) for size in (1, 3))
    assert shared.samples == alone.samples
    # The parts of the loss are added up in float32.
    np.testing.assert_allclose(shared.losses[:, 0], alone.losses[:, 0], rtol=5e-7)
    for name, weights in alone.weights.items():
        np.testing.assert_allclose(shared.weights[name], weights, atol=1e-6, err_msg=name)


def test_every_step_shows_its_own_batch(alone: Run) -> None:
    lanes = [[lane for lane, _ in step] for step in alone.samples]
    assert lanes == [list(range(BATCH_SIZE))] * STEPS
    shown = [sample for step in alone.samples for _, sample in step]
    assert sorted(shown[:40]) == list(range(40))
    assert len(set(alone.losses[:, 0])) == STEPS


def test_the_bounds_would_tell_of_a_gradient_that_is_a_tenth_too_large(
    cluster: Cluster, micro_batch: int, alone: Run
) -> None:
    other = cluster.run(1, micro_batch, lr=1.1 * LR)
    off = np.abs(other.losses[:, 0] / alone.losses[:, 0] - 1)
    print(f"losses {off.max():.1e}")
    assert off.max() > 5e-5
