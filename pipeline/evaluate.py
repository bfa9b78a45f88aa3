"""Evaluation of a model on Ray workers: every sample of a split exactly once, linked to the model version."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

import encnet
from pipeline import tracking
from pipeline.cluster import connect_ray, progress
from pipeline.errors import InputError, PipelineError
from pipeline.eval_loader import EvalLoader
from pipeline.predict_model import memory_format
from pipeline.provenance import git_commit
from pipeline.registry import ResolvedModel, resolve_model
from pipeline.shards import DatasetInfo, read_dataset, read_index
from pipeline.storage import open_store
from pipeline.world import World


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a model is evaluated."""

    data: str
    split: str = "val"
    scales: tuple[float, ...] = (1.0,)
    """Image scales whose probabilities are averaged."""
    flip: bool = False
    """Average with the mirrored image."""
    crop_size: int = 0
    """Side of the sliding window; 0: the whole image at once."""
    batch_size: int = 4
    num_workers: int = 2

    def __post_init__(self) -> None:
        if self.num_workers < 1 or self.batch_size < 1:
            raise InputError(f"num_workers: {self.num_workers}, batch_size: {self.batch_size}: must be 1 or more")
        if not self.scales or min(self.scales) <= 0:
            raise InputError(f"scales: {self.scales}: must be numbers greater than 0")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found."""

    model_uri: str
    miou: float
    pix_acc: float
    iou: dict[str, float]
    """Per class; NaN for a class that is in neither truth nor prediction."""
    num_images: int
    run_url: str


def evaluate(model: str, protocol: Protocol, experiment: str = "encnet") -> Evaluation:
    """Evaluate `model` (MLflow URI or folder) and log the result to an MLflow run and to the model version."""
    store = open_store(protocol.data)
    dataset, num_images = read_dataset(store), len(read_index(store, protocol.split))
    tracking.connect()
    with resolve_model(model) as resolved:
        _check_classes(resolved, dataset)
        connect_ray()
        matrix = _count(resolved, protocol, dataset, num_images)
        run_url = _log(resolved, protocol, dataset, matrix, experiment)
    return Evaluation(
        model_uri=resolved.uri,
        miou=matrix.mean_iou,
        pix_acc=matrix.pix_acc,
        iou=dict(zip(dataset.classes, matrix.iou.tolist(), strict=True)),
        num_images=num_images,
        run_url=run_url,
    )


def _check_classes(resolved: ResolvedModel, dataset: DatasetInfo) -> None:
    try:
        config = encnet.read_config(resolved.weights)
    except ValueError as error:
        raise InputError(f"MODEL: {error}") from None
    if config.num_classes != len(dataset.classes):
        raise InputError(
            f"data: {dataset.name!r} has {len(dataset.classes)} classes, but {resolved.uri} was trained for "
            f"{config.num_classes}: evaluate it on its own data set"
        )


def _count(
    resolved: ResolvedModel, protocol: Protocol, dataset: DatasetInfo, num_images: int
) -> encnet.ConfusionMatrix:
    """The confusion matrix over all workers; raises PipelineError unless each sample was seen exactly once."""
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= protocol.num_workers else 0
    weights = ray.put(resolved.weights.read_bytes())
    task = ray.remote(evaluate_share).options(num_cpus=1, num_gpus=gpus, max_retries=3)
    seen: list[int] = []
    matrix = encnet.ConfusionMatrix(len(dataset.classes))
    with progress(f"evaluate {resolved.uri}", "image") as board:
        shares = [
            task.remote(weights, protocol, World(rank, protocol.num_workers), num_images, board)
            for rank in range(protocol.num_workers)
        ]
        while shares:
            (done, *_), shares = ray.wait(shares)
            try:
                share, ids = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, (PipelineError, InputError)) else error) from None
            matrix += share
            seen += ids
    if sorted(seen) != list(range(num_images)):
        raise PipelineError(f"evaluation saw {len(seen)} samples, {len(set(seen))} different, of {num_images}")
    return matrix


def evaluate_share(
    weights: bytes, protocol: Protocol, world: World, num_images: int, board: Any
) -> tuple[encnet.ConfusionMatrix, list[int]]:
    """One worker's share, and the ids of the samples it saw."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        path.write_bytes(weights)
        model, config = encnet.load_model(path)
    layout = memory_format(device)
    model.to(device).to(memory_format=layout).eval()  # type: ignore[call-overload]
    store = open_store(protocol.data)
    index = read_index(store, protocol.split)
    matrix = encnet.ConfusionMatrix(config.num_classes)
    ids: list[int] = []
    for batch in EvalLoader(store, index, world=world, batch_size=protocol.batch_size):
        images = encnet.normalize(batch.images.to(device), layout)
        crop = protocol.crop_size or None
        classes = encnet.predict_classes(model, images, scales=protocol.scales, flip=protocol.flip, crop_size=crop)
        matrix.update(classes, batch.labels.to(device))
        ids += batch.sample_ids.tolist()
        if world.rank == 0:  # the shares are equal: one of them tells the progress of all
            board.post.remote({"step": min(num_images, len(ids) * world.size), "steps": num_images})
    return matrix, ids


def _log(
    resolved: ResolvedModel,
    protocol: Protocol,
    dataset: DatasetInfo,
    matrix: encnet.ConfusionMatrix,
    experiment: str,
) -> str:
    client = tracking.connect()
    what = f"{resolved.name} v{resolved.version}" if resolved.name else Path(resolved.uri).name
    name = f"evaluate {what} on {dataset.name}/{protocol.split}"
    run_id = tracking.new_run(
        client, experiment, name, {"model": resolved.uri, "git commit": git_commit(), "kind": "evaluation"}
    )
    tracker = tracking.Tracker(run_id)
    try:
        tracker.log_dataset(dataset.name, protocol.data, dataset.digest, "evaluation")
        prefix = f"eval/{protocol.split}"
        scores = {f"{prefix}/miou": matrix.mean_iou, f"{prefix}/pix_acc": matrix.pix_acc}
        per_class = dict(zip(dataset.classes, matrix.iou.tolist(), strict=True))
        tracker.log_metrics({0: {**scores, **{f"{prefix}/iou/{name}": iou for name, iou in per_class.items()}}})
        tracker.log_table({"class": list(per_class), "iou": list(per_class.values())}, "per_class.json")
        tracker.log_config({"model": resolved.uri, **vars(protocol), "scales": list(protocol.scales)}, {})
        if resolved.name:
            tracking.score_version(client, run_id, resolved.name, resolved.version, resolved.model_id, scores,
                                   dataset.name, dataset.digest, {"evaluation run": run_id})  # fmt: skip
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish()
    return tracking.run_url(client, run_id)
