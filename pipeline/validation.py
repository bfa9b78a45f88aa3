"""Validation in the middle of a run: the confusion matrix of the whole split, and pictures of some samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import encnet
from pipeline.eval_loader import EvalLoader
from pipeline.report import sample_picture
from pipeline.sample_reader import SampleReader
from pipeline.train_setup import Worker


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
    reader, dataset = SampleReader(worker.store, worker.val_index), worker.dataset
    pictures = []
    for sample in spread(len(worker.val_index), worker.config.validation.pictures):
        image, truth = reader.load(sample)
        prediction = _predict(worker, torch.from_numpy(image)[None])[0].cpu().numpy()
        key = worker.val_index.keys[sample]
        pictures.append(sample_picture(key, image, truth, prediction, dataset.classes, dataset.palette))
    return pictures


def spread(num_samples: int, count: int) -> list[int]:
    """`count` of `num_samples` places, or all if they are fewer: the first, and others as evenly apart as can be."""
    count = min(num_samples, count)
    return [number * num_samples // count for number in range(count)]
