"""One optimizer step over the global batch, whatever share of it this rank has."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import encnet
from pipeline.loader import Batch
from pipeline.optim import learning_rate_factor, set_learning_rate
from pipeline.train_setup import Worker


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
