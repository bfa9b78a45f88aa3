"""What can be checked of a run before it starts, each thing by itself: one that is wrong hides no other."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import click
import ray
from rich.filesize import decimal

import encnet
from infra.local import settings
from infra.local.errors import StackInputError
from pipeline import tracking
from pipeline.cluster import connect_ray, live_nodes
from pipeline.config import RunConfig
from pipeline.errors import InputError, PipelineError
from pipeline.memory_estimate import StepMemory, step_memory
from pipeline.preconditions import check_classes, check_name, find_dataset, find_storage
from pipeline.resume import runs_uri
from pipeline.run_plan import RunPlan, plan_run
from pipeline.shards import DatasetInfo, read_index
from pipeline.start_weights import load_start_weights
from pipeline.storage import open_store
from pipeline.trainer import check_workers, use_gpu


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    """What was found; where it is not ok, what is wrong and what to do."""


@dataclass(kw_only=True)
class Findings:
    """All that was looked at, and what was learnt by it; None is what could not be found out."""

    checks: list[Check] = field(default_factory=list)
    dataset: DatasetInfo | None = None
    cluster: dict[str, float] | None = None
    """What the cluster has in all: CPU, GPU, memory in bytes, nodes."""
    memory: StepMemory | None = None
    plan: RunPlan | None = None

    @property
    def failed(self) -> list[Check]:
        """The checks that are not ok."""
        return [check for check in self.checks if not check.ok]

    def look(self, name: str, check: Callable[[], str]) -> bool:
        """Do a check; whether it is ok."""
        try:
            self.checks.append(Check(name=name, ok=True, detail=check()))
        except (InputError, StackInputError, PipelineError) as error:
            self.checks.append(Check(name=name, ok=False, detail=" ".join(str(error).split())))
        return self.checks[-1].ok

    def lines(self) -> Iterator[str]:
        """The checks for people, a line each."""
        for check in self.checks:
            mark = click.style("ok  ", fg="green") if check.ok else click.style("FAIL", fg="red", bold=True)
            yield f"  {mark}  {check.name:<14} {check.detail}"

    def require(self) -> None:
        """Raise InputError where a check failed."""
        if self.failed:
            names = ", ".join(check.name for check in self.failed)
            raise InputError(f"dry run: {len(self.failed)} of {len(self.checks)} checks failed: {names}: see above")


def check_run(config: RunConfig, *, resume: bool = False) -> Findings:
    """Look at everything that `config` needs. Writes nothing that stays; training is not started."""
    found = Findings()
    if found.look("data set", partial(_dataset, config, found)):
        for split in (config.data.train_split, config.data.val_split):
            found.look(f"{split} split", partial(_split, config, found, split))
        found.look("classes", partial(_classes, config, found))
    found.look("storage", partial(_storage, config))
    found.look("name", partial(_name, config, resume))
    found.look("MLflow", _mlflow)
    if found.look("Ray", partial(_ray, found)):
        found.look("workers", partial(_workers, config, found))
    if found.look("network", partial(_network, config, found)):
        found.look("memory", partial(_memory, config, found))
        if found.dataset and {config.data.train_split, config.data.val_split} <= found.dataset.splits.keys():
            found.look("schedule", partial(_schedule, config, found))
    if config.start_weights and not resume:
        found.look("start weights", partial(_start_weights, config))
    return found


def _dataset(config: RunConfig, found: Findings) -> str:
    if config.data.uri.startswith("s3://"):
        settings.require({"s3"})
    found.dataset = find_dataset(config)
    return f"{found.dataset.name}, digest {found.dataset.digest[:12]}"


def _split(config: RunConfig, found: Findings, split: str) -> str:
    assert found.dataset
    index = read_index(open_store(config.data.uri), split, found.dataset)
    info = found.dataset.splits[split]
    return f"{len(index):,} samples in {info.shards} shards, {decimal(info.bytes)}"


def _classes(config: RunConfig, found: Findings) -> str:
    assert found.dataset
    check_classes(config, found.dataset)
    return str(len(found.dataset.classes))


def _storage(config: RunConfig) -> str:
    store = open_store(runs_uri(find_storage(config.storage)))
    probe = f".probe-{uuid.uuid4().hex}"
    store.write(probe, b"written by encnet train --dry-run")
    store.delete(probe)
    return f"{store.uri()} can be written"


def _name(config: RunConfig, resume: bool) -> str:
    if not config.name:
        return "one is made of the recipe and the time"
    check_name(config, resume)
    return f"{config.name} can be resumed" if resume else f"{config.name} is free"


def _mlflow() -> str:
    settings.require({"mlflow"})
    tracking.connect()
    return f"{os.environ['MLFLOW_TRACKING_URI']} answers"


def _ray(found: Findings) -> str:
    settings.require({"ray"})
    connect_ray()
    resources = ray.cluster_resources()
    found.cluster = {name: resources.get(name, 0.0) for name in ("CPU", "GPU", "memory")} | {"nodes": len(live_nodes())}
    return (
        f"{found.cluster['nodes']:.0f} nodes with {found.cluster['CPU']:.0f} CPUs, {found.cluster['GPU']:.0f} GPUs and "
        f"{decimal(int(found.cluster['memory']))}"
    )


def _workers(config: RunConfig, found: Findings) -> str:
    check_workers(config)
    workers = config.workers
    return f"{workers.count}, each with {workers.cpus} CPU{'s' if workers.cpus > 1 else ''}" + (
        " and a GPU" if use_gpu(config) else ""
    )


def _network(config: RunConfig, found: Findings) -> str:
    gpu = use_gpu(config) if found.cluster else config.workers.gpu == "yes"
    try:
        cost = encnet.model_cost(config.model, config.augment.crop_size)
        found.memory = step_memory(config, config.workers.fewest, gpu=gpu)
    except ValueError as error:
        raise InputError(f"augment.crop_size: {error}") from None
    height, width = config.augment.crop_size
    return (
        f"{config.model.arch} {config.model.backbone}, {cost.training.parameters / 1e6:.2f} M parameters, "
        f"{cost.training.multiply_adds / 1e9:.3g} G multiply-adds a crop of {height}x{width}"
    )


def _memory(config: RunConfig, found: Findings) -> str:
    assert found.memory
    peak, fewest = found.memory.peak, config.workers.fewest
    if not found.cluster or use_gpu(config):
        return f"{decimal(peak)} of tensors a worker, at most"
    there = int(found.cluster["memory"])
    if fewest * peak > there:
        raise InputError(
            f"optim.micro_batch: {config.optim.group_size} images over {fewest} workers take {fewest} times "
            f"{decimal(peak)}, and the cluster has {decimal(there)}: give a smaller --optim.micro-batch or crop"
        )
    return f"{fewest} times {decimal(peak)} of tensors at most, of {decimal(there)} that the cluster has"


def _schedule(config: RunConfig, found: Findings) -> str:
    assert found.dataset
    assert found.memory
    train, val = (found.dataset.splits[split] for split in (config.data.train_split, config.data.val_split))
    found.plan = plan = plan_run(config, train, val, found.memory)
    if config.optim.warmup_steps >= plan.steps:
        raise InputError(
            f"optim.warmup_steps: {config.optim.warmup_steps}, and the run has {plan.steps} steps: give fewer"
        )
    return f"{plan.steps:,} steps, {plan.epochs:.1f} epochs, {plan.validations} validations"


def _start_weights(config: RunConfig) -> str:
    if config.start_weights.startswith(("models:/", "runs:/")):
        settings.require({"mlflow"})
    return "; ".join(load_start_weights(encnet.build_model(config.model), config.start_weights))
