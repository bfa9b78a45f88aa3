"""Validation in the middle of a run: the confusion matrix of the whole split, and pictures of some samples."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch
from torch import Tensor

import encnet
from pipeline.eval_loader import EvalLoader
from pipeline.report import sample_picture
from pipeline.train_setup import Worker
from pipeline.world import World


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
        return encnet.predict_classes(worker.result, worker.normalize(images))


@torch.inference_mode()
def val_pictures(worker: Worker) -> list[np.ndarray]:
    """The same few validation samples each time, spread over the split, as (H', W', 3) uint8 pictures."""
    index, wanted = worker.val_index, worker.config.validation.pictures
    pictures = []
    spread = World(0, max(1, len(index) // max(1, wanted)))  # the share of one rank of so many: every so-manyth sample
    for batch in islice(EvalLoader(worker.store, index, world=spread, lookahead=1), wanted):
        prediction = _predict(worker, batch.images)[0].cpu().numpy()
        image, truth, key = batch.images[0].numpy(), batch.labels[0].numpy(), str(index.keys[int(batch.sample_ids[0])])
        pictures.append(sample_picture(key, image, truth, prediction, worker.dataset.classes, worker.dataset.palette))
    return pictures
