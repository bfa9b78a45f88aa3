"""One optimizer step over the global batch, whatever share of it this rank has."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import encnet
from pipeline.loader import Batch
from pipeline.optim import set_learning_rate, trained
from pipeline.train_setup import Worker


def train_step(worker: Worker, step: int, lr: float, micro_batches: list[Batch]) -> Tensor:
    """One optimizer step over the global batch.

    Returns this rank's share (5,) of total, pixel, auxiliary and SE loss and of the gradient's norm before clipping:
    summed over ranks they are those of the global batch. In fp16 a norm that is not finite means that the step was
    skipped; in other precisions that the weights are spoiled: what `Meter.flush` finds before anything is kept.
    """
    set_learning_rate(worker.optimizer, lr)
    worker.optimizer.zero_grad(set_to_none=True)
    losses = _accumulate(worker, step, micro_batches)
    worker.scaler.unscale_(worker.optimizer)
    norm = _clip(worker)
    worker.scaler.step(worker.optimizer)
    worker.scaler.update()
    if worker.ema is not None:
        worker.ema.update(worker.net, step)
    return torch.cat([losses, norm.reshape(1) / worker.world.size])


def _accumulate(worker: Worker, step: int, micro_batches: list[Batch]) -> Tensor:
    """Add the gradients of all micro-batches up; returns this rank's share (4,) of the losses.

    A micro-batch is BatchNorm's group; the losses are normalised over the global batch.
    """
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
    return parts


def _clip(worker: Worker) -> Tensor:
    """The norm of the global batch's gradient, the same on all ranks; clips the gradient where the recipe says so."""
    parameters = list(trained(worker.net))
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if worker.config.optim.grad_clip:
        nn.utils.clip_grads_with_norm_(parameters, worker.config.optim.grad_clip, norm)
    return norm
