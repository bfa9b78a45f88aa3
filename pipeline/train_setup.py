"""What a worker holds while it trains, as it is at step 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import encnet
from pipeline.checkpoint import RunState
from pipeline.config import RunConfig
from pipeline.ema import WeightAverage
from pipeline.loader import TrainLoader
from pipeline.node_cache import NodeCache
from pipeline.optim import build_optimizer, freeze
from pipeline.order import Order, plan_blocks
from pipeline.outbox import Outbox
from pipeline.run_board import Pulse
from pipeline.shards import DatasetInfo, ShardIndex, read_dataset, read_index
from pipeline.start_weights import load_start_weights
from pipeline.storage import Store, open_store
from pipeline.world import World

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Worker:
    """What one worker holds while it trains."""

    config: RunConfig
    world: World
    device: torch.device
    store: Store
    cache: NodeCache | None
    dataset: DatasetInfo
    train_index: ShardIndex
    val_index: ShardIndex
    net: encnet.SegmentationNet
    model: nn.Module
    """`net` as trained: compiled where the recipe says so, wrapped in DDP where there are several workers."""
    ema: WeightAverage | None
    """The moving average of `net`; None without `optim.ema_decay`."""
    loss: encnet.SegmentationLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    state: RunState
    board: Any
    """Handle of the actor that shows progress; None shows nothing."""
    outbox: Outbox | None = None
    """Takes what is logged; only on rank 0."""

    def autocast(self) -> torch.autocast:
        precision = self.config.precision
        return torch.autocast(self.device.type, dtype=_DTYPES[precision], enabled=precision != "float32")

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 images (B, H, W, 3) from the loader -> what the network takes, on the device."""
        images = images.to(self.device, non_blocking=True)
        return encnet.normalize(images, memory_format(self.device, self.config))

    @property
    def result(self) -> encnet.SegmentationNet:
        """The network that is validated and registered: the averaged one where there is one."""
        return self.net if self.ema is None else self.ema.net

    def post(self, **facts: Any) -> None:
        """Show progress; never waits."""
        if self.board is not None and self.world.rank == 0:
            self.board.post.remote(facts)

    def note(self, kind: str, detail: str, step: int) -> None:
        """Put something into the run's timeline; never waits."""
        if self.board is not None and self.world.rank == 0:
            self.board.note.remote(kind, detail, step)


def setup(
    config: RunConfig, world: World, device: torch.device, board: Any = None, pulse: Pulse | None = None
) -> Worker:
    """Build everything, as it is at step 0 with random weights. `pulse` tells when this rank waits for the others."""
    store = open_store(config.data.uri)
    dataset = read_dataset(store)
    net = build_net(config, device)
    ema = WeightAverage(net, config.optim.ema_decay) if config.optim.ema_decay else None
    loss = encnet.SegmentationLoss(
        aux_weight=config.loss.aux_weight,
        se_weight=config.loss.se_weight,
        class_weights=class_weights(config, dataset),
        align_corners=config.model.align_corners,
    ).to(device)
    worker = Worker(
        config=config,
        world=world,
        device=device,
        store=store,
        cache=NodeCache(Path(config.data.cache_dir), config.data.cache_bytes) if config.data.cache_dir else None,
        dataset=dataset,
        train_index=read_index(store, config.data.train_split, dataset),
        val_index=read_index(store, config.data.val_split, dataset),
        net=net,
        model=_compiled(net) if config.compile else net,
        ema=ema,
        loss=loss,
        optimizer=build_optimizer(net, config.optim),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        state=RunState(
            seed=config.seed, data_digest=dataset.digest, batch_size=config.optim.batch_size, config=config.to_dict()
        ),
        board=board,
    )
    if pulse:
        pulse.at(0, "ready")
    worker.model = _distribute(worker.model, world)
    return worker


def build_net(config: RunConfig, device: torch.device) -> encnet.SegmentationNet:
    """The network with the recipe's random weights, the same on every device, synchronized and frozen as it trains."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = encnet.build_model(config.model)
    net = net.to(device=device, memory_format=memory_format(device, config))  # type: ignore[call-overload]
    net = encnet.convert_sync_batchnorm(net)
    freeze(net, config.optim)
    return net


def begin(worker: Worker) -> None:
    """Take the start weights that the recipe names, on all ranks; the run's timeline says what was loaded.

    For a run at step 0, never for one that is resumed. Raises InputError for weights that can't be used.
    """
    if not worker.config.start_weights:
        return
    if worker.world.rank == 0:
        for note in load_start_weights(worker.net, worker.config.start_weights):
            worker.note("start weights", note, 0)
    if worker.world.size > 1:
        for tensor in worker.net.state_dict().values():
            dist.broadcast(tensor, src=0)
    if worker.ema is not None:
        worker.ema.restart(worker.net)


def memory_format(device: torch.device, config: RunConfig) -> torch.memory_format:
    """The layout of feature maps. auto is the faster: on CPUs, float32 convolutions take 1.3 times as long in
    channels_last."""
    slower = device.type == "cpu" and config.precision == "float32"
    chosen = not slower if config.channels_last == "auto" else config.channels_last == "yes"
    return torch.channels_last if chosen else torch.contiguous_format


def class_weights(config: RunConfig, dataset: DatasetInfo) -> Tensor | None:
    """Weights (classes,) of the loss: a power of ENet's 1 / ln(1.02 + pixel share), arXiv 1606.02147; mean 1."""
    if config.loss.class_weighting == "none":
        return None
    pixels = torch.tensor(dataset.splits[config.data.train_split].class_pixels, dtype=torch.float64)
    weights = torch.log(1.02 + pixels / pixels.sum()) ** -config.loss.class_weight_power
    return (weights / weights.mean()).float()


def _compiled(net: nn.Module) -> nn.Module:
    """`net` compiled for training; its weights, and what is validated and stored, stay those of `net` itself."""
    compiled: nn.Module = torch.compile(net)  # type: ignore[assignment]
    return compiled


def _distribute(net: nn.Module, world: World) -> nn.Module:
    if world.size == 1:
        return net
    # BatchNorm's statistics are the same on all ranks already: broadcasting them would be work for nothing.
    return DistributedDataParallel(net, forward_sync_buffers=False, gradient_as_bucket_view=True)


def open_loader(worker: Worker) -> TrainLoader:
    """This rank's share of the order of samples, from the step that the worker is at."""
    config, index = worker.config, worker.train_index
    blocks = plan_blocks(index.shard, index.offset, index.length, config.data.block_bytes)
    order = Order(blocks, seed=config.seed, batch_size=config.optim.batch_size, window=config.data.window)
    return TrainLoader(
        worker.store,
        index,
        order,
        world=worker.world,
        transform=config.augment,
        seed=config.seed,
        start_step=worker.state.step,
        micro_batch=config.optim.group_size,
        threads=config.data.threads,
        memory_bytes=config.data.memory_bytes,
        cache=worker.cache,
        pin_memory=worker.device.type == "cuda",
        max_bad_samples=config.data.max_bad_samples,
    )
