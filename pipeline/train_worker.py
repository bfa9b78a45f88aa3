"""The training loop that every Ray Train worker runs: setup -> fit -> validate, one function a phase.

Which samples make up a step, how each is augmented, BatchNorm's statistics, the loss's normalisation and dropout
depend on (seed, step) only: the same recipe gives the same losses on any number of workers.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import encnet
from pipeline.bad_samples import too_many
from pipeline.checkpoint import RunState, load_checkpoint, save_checkpoint
from pipeline.config import RunConfig
from pipeline.eval_loader import EvalLoader
from pipeline.loader import Batch, TrainLoader
from pipeline.meter import Meter
from pipeline.node_cache import NodeCache
from pipeline.optim import build_optimizer, epoch_end, learning_rate_factor, num_steps, set_learning_rate
from pipeline.order import Order, plan_blocks
from pipeline.report import sample_picture
from pipeline.shards import DatasetInfo, ShardIndex, read_dataset, read_index
from pipeline.storage import Store, open_store
from pipeline.tracking import Tracker
from pipeline.world import World

LOG_EVERY_STEPS = 5
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


def base_lr(worker: Worker, step: int, steps: int) -> float:
    """The base learning rate at a step."""
    optim = worker.config.optim
    return optim.lr * learning_rate_factor(step, steps, power=optim.power, warmup_steps=optim.warmup_steps)


def train_step(worker: Worker, step: int, lr: float, micro_batches: list[Batch]) -> Tensor:
    """One optimizer step over the global batch; returns this rank's share (4,) of total, pixel, aux and SE loss."""
    optim = worker.config.optim
    set_learning_rate(worker.optimizer, lr)
    worker.optimizer.zero_grad(set_to_none=True)
    sizes = [len(batch.labels) for batch in micro_batches]
    parts = torch.zeros(4, device=worker.device)
    every_label = torch.cat([batch.labels for batch in micro_batches]).to(worker.device, non_blocking=True)
    totals = encnet.batch_totals(every_label, worker.loss.class_weights)
    for number, (batch, labels) in enumerate(zip(micro_batches, every_label.split(sizes), strict=True)):
        last = number + 1 == len(micro_batches)
        model = worker.model
        with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
            images = worker.normalize(batch.images)
            lanes = batch.positions.to(worker.device, non_blocking=True)
            encnet.set_dropout_key(worker.net, worker.config.seed, step, lanes)
            with worker.autocast():
                output = model(images, upsample=False)
            loss = worker.loss(output, labels, totals)
            # The parts of all ranks add up to the global loss, and DDP takes the mean over ranks: hence the factor.
            worker.scaler.scale(loss.total * worker.world.size).backward()
        parts += torch.stack(loss).detach()
    if optim.grad_clip:
        worker.scaler.unscale_(worker.optimizer)
        nn.utils.clip_grad_norm_(worker.net.parameters(), optim.grad_clip)
    worker.scaler.step(worker.optimizer)
    worker.scaler.update()
    return parts


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


@torch.inference_mode()
def validate(worker: Worker) -> encnet.ConfusionMatrix:
    """The confusion matrix of the whole validation split, each sample once, over all ranks."""
    matrix = encnet.ConfusionMatrix(worker.config.model.num_classes)
    loader = EvalLoader(
        worker.store,
        worker.val_index,
        world=worker.world,
        batch_size=worker.config.validation.batch_size,
        cache=worker.cache,
    )
    for batch in loader:
        matrix.update(_predict(worker, batch.images), batch.labels.to(worker.device))
    return matrix.reduce()


def _predict(worker: Worker, images: Tensor) -> Tensor:
    """uint8 images (B, H, W, 3) -> class ids (B, H, W)."""
    with worker.autocast():
        return encnet.predict_classes(worker.net, worker.normalize(images))


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


@torch.inference_mode()
def val_pictures(worker: Worker) -> list[np.ndarray]:
    """The first few validation samples as (H, W', 3) pictures: image, truth, prediction, errors."""
    pictures = []
    first = EvalLoader(worker.store, worker.val_index, world=World(), lookahead=1)
    for batch in islice(first, worker.config.validation.pictures):
        prediction = _predict(worker, batch.images)[0].cpu().numpy()
        image, truth = batch.images[0].numpy(), batch.labels[0].numpy()
        pictures.append(sample_picture(image, truth, prediction, worker.dataset.palette))
    return pictures
