"""What a worker holds while it trains, built at step 0 or where the latest checkpoint left off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import encnet
from pipeline.checkpoint import RunState, load_checkpoint
from pipeline.config import RunConfig
from pipeline.loader import TrainLoader
from pipeline.node_cache import NodeCache
from pipeline.optim import build_optimizer
from pipeline.order import Order, plan_blocks
from pipeline.shards import DatasetInfo, ShardIndex, read_dataset, read_index
from pipeline.storage import Store, open_store
from pipeline.tracking import Tracker
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
    net: nn.Module
    model: nn.Module
    """`net` as trained: wrapped in DDP where there are several workers."""
    loss: encnet.SegmentationLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    state: RunState
    board: Any
    """Handle of the actor that shows progress; None shows nothing."""
    tracker: Tracker | None
    """Only on rank 0."""

    def autocast(self) -> torch.autocast:
        precision = self.config.precision
        return torch.autocast(self.device.type, dtype=_DTYPES[precision], enabled=precision != "float32")

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 images (B, H, W, 3) from the loader -> what the network takes, on the device."""
        images = images.to(self.device, non_blocking=True)
        return encnet.normalize(images, memory_format(self.device, self.config))

    def post(self, **facts: Any) -> None:
        """Show progress; never waits."""
        if self.board is not None and self.world.rank == 0:
            self.board.post.remote(facts)


def setup(config: RunConfig, world: World, board: Any) -> Worker:
    """Build everything, at step 0 or where the latest checkpoint left off."""
    torch.manual_seed(config.seed)
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(config.workers.cpus)
    store = open_store(config.data.uri)
    dataset = read_dataset(store)
    net = encnet.build_model(config.model).to(device)
    net = encnet.convert_sync_batchnorm(net.to(memory_format=memory_format(device, config)))  # type: ignore[call-overload]
    optimizer = build_optimizer(net, config.optim)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    state = RunState(
        seed=config.seed, data_digest=dataset.digest, batch_size=config.optim.batch_size, config=config.to_dict()
    )
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = load_checkpoint(Path(folder), net, optimizer, scaler, state, device)
    loss = encnet.SegmentationLoss(
        aux_weight=config.loss.aux_weight,
        se_weight=config.loss.se_weight,
        class_weights=class_weights(config, dataset),
        align_corners=config.model.align_corners,
    ).to(device)
    return Worker(
        config=config,
        world=world,
        device=device,
        store=store,
        cache=NodeCache(Path(config.data.cache_dir), config.data.cache_bytes) if config.data.cache_dir else None,
        dataset=dataset,
        train_index=read_index(store, config.data.train_split),
        val_index=read_index(store, config.data.val_split),
        net=net,
        model=_distribute(net, world),
        loss=loss,
        optimizer=optimizer,
        scaler=scaler,
        state=state,
        board=board,
        tracker=None,
    )


def memory_format(device: torch.device, config: RunConfig) -> torch.memory_format:
    """The faster layout of feature maps: on CPUs, float32 convolutions take 1.3 times as long in channels_last."""
    on_cpu = device.type == "cpu" and config.precision == "float32"
    return torch.contiguous_format if on_cpu else torch.channels_last


def class_weights(config: RunConfig, dataset: DatasetInfo) -> Tensor | None:
    """Weights (classes,) of the cross-entropy: 1 / ln(1.02 + pixel share), as in ENet (arXiv 1606.02147), mean 1."""
    if config.loss.class_weighting == "none":
        return None
    pixels = torch.tensor(dataset.splits[config.data.train_split].class_pixels, dtype=torch.float64)
    weights = 1.0 / torch.log(1.02 + pixels / pixels.sum())
    return (weights / weights.mean()).float()


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
