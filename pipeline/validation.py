"""Validation in the middle of a run: the confusion matrix of the whole split, and pictures of its first samples."""

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
        return encnet.predict_classes(worker.net, worker.normalize(images))


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
