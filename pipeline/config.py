"""The configuration of a training run: frozen dataclasses, checked when built.

A recipe is a function that returns a whole `RunConfig`; the command line overrides its fields by dotted names
(`--optim.lr 0.02`). The resolved configuration is what is logged, checkpointed and registered; `RunConfig.from_dict`
loads it back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from encnet import ModelConfig
from pipeline.errors import InputError, did_you_mean
from pipeline.transforms import TransformConfig

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataConfig:
    """Where the samples come from and how they are read."""

    uri: str = ""
    """The data set: s3://bucket/prefix or a folder, as `encnet data prepare` writes it."""
    train_split: str = "train"
    """The split to train on."""
    val_split: str = "val"
    """The split to validate on."""
    block_bytes: int = 1 << 20
    """Neighbouring samples read in one ranged request, in bytes: larger reads less often, shuffles less finely."""
    window: int = 64
    """Samples shuffled together inside a lane."""
    threads: int = 2
    """Threads a worker that decode and augment."""
    memory_bytes: int = 256 << 20
    """Blocks that a worker holds and has on their way, in bytes; if too few for the window, it reads more often."""
    cache_dir: str = ""
    """A folder on each node's own disk that keeps what was read, for all its workers and later runs; empty: none."""
    cache_bytes: int = 32 << 30
    """Size at which the cache drops what was used longest ago."""
    max_bad_samples: int = 0
    """Training samples that can't be decoded: up to this many are replaced and listed, one more ends the run."""

    def __post_init__(self) -> None:
        _positive(block_bytes=self.block_bytes, window=self.window, threads=self.threads)
        for name in ("memory_bytes", "cache_bytes", "max_bad_samples"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be 0 or more")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LossConfig:
    """The weights of the parts of the loss, and of the classes."""

    aux_weight: float = 0.2
    """Weight of the auxiliary FCN head's cross-entropy."""
    se_weight: float = 0.2
    """Weight of the semantic encoding loss (which classes are in the picture)."""
    class_weighting: Literal["none", "enet"] = "none"
    """enet: weigh class c by 1 / ln(1.02 + share of c among the train pixels), which lifts rare classes."""
    class_weight_power: float = 1.0
    """The weights are taken to this power: 1 finds more of the rare classes, towards 0 takes less for them."""

    def __post_init__(self) -> None:
        if not 0 <= self.class_weight_power < math.inf:
            raise ValueError(f"class_weight_power: {self.class_weight_power} must be 0 or more, e.g. 0.5")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OptimConfig:
    """The optimizer and its schedule; the batch is the global one, whatever the number of workers."""

    kind: Literal["sgd", "adamw"] = "sgd"
    """sgd is the paper's; adamw learns faster in a short run from scratch."""
    lr: float = 0.01
    """Base learning rate (of the backbone), at the start of the schedule."""
    head_lr_factor: float = 10.0
    """The learning rate of everything but the backbone, as a multiple of lr."""
    momentum: float = 0.9
    """Momentum of sgd; adamw's first beta."""
    weight_decay: float = 1e-4
    """Weight decay; none on biases, normalisation and codewords."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    """How the learning rate falls from lr to min_lr: poly by (1 - step / steps) ** power, cosine by half a wave."""
    power: float = 0.9
    """Power of the poly schedule."""
    min_lr: float = 0.0
    """Base learning rate at the end of the schedule."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly to its schedule."""
    epochs: float = 30.0
    """Passes over the train split."""
    max_steps: int = 0
    """Stop the schedule after this many steps instead of `epochs`; 0 leaves it to `epochs`."""
    batch_size: int = 16
    """Images a step, over all workers together."""
    micro_batch: int = 0
    """Images a micro-step, over all workers; gradients add up over batch_size / micro_batch of them. 0: batch_size."""
    grad_clip: float = 0.0
    """Clip the gradient's global norm to this; 0: no clipping."""
    ema_decay: float = 0.0
    """Average the weights over about 1 / (1 - ema_decay) steps, and validate and register the average; 0: don't."""
    freeze: Literal["none", "backbone", "backbone_norm"] = "none"
    """What stays as it started: all of the backbone, or only its BatchNorm: statistics, scales and offsets."""

    def __post_init__(self) -> None:
        _positive(lr=self.lr, batch_size=self.batch_size, epochs=self.epochs)
        if self.micro_batch < 0 or (self.micro_batch and self.batch_size % self.micro_batch):
            raise ValueError(f"micro_batch: {self.micro_batch} does not divide batch_size {self.batch_size}")
        for name in ("max_steps", "warmup_steps", "min_lr", "grad_clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be 0 or more")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr: {self.min_lr} is above lr {self.lr}: the schedule falls from lr to min_lr")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: {self.ema_decay} is out of range: give 0, or a share below 1 such as 0.999")

    @property
    def group_size(self) -> int:
        """Images a micro-step: the group that BatchNorm and the losses see."""
        return self.micro_batch or self.batch_size


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class WorkersConfig:
    """The Ray Train workers. The result does not depend on them, only the speed."""

    num: int = 2
    """Number of workers, each with one GPU where the cluster has any, else with CPUs; with `least`: the most."""
    least: int = 0
    """Fewest workers to train on, when the cluster has no room for `num`; 0: as many as `num`."""
    cpus: int = 1
    """CPU cores a worker."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: GPUs when the cluster has enough of them."""
    resize_every_s: float = 30.0
    """With `least`: how often to look whether the cluster has room for more workers than train."""
    max_failures: int = 3
    """Failures of workers in a row, with no new checkpoint between, to recover from."""
    max_node_losses: int = 5
    """The same of lost nodes, which count apart."""
    max_preemptions: int = 20
    """The same of preempted nodes, which count apart."""
    collective_timeout_s: float = 600.0
    """How long workers wait for one of them before the run is given up as hung and started again."""

    def __post_init__(self) -> None:
        _positive(num=self.num, cpus=self.cpus, resize_every_s=self.resize_every_s)
        _positive(collective_timeout_s=self.collective_timeout_s)
        for name in ("least", "max_failures", "max_node_losses", "max_preemptions"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be 0 or more")
        if self.least > self.num:
            raise ValueError(f"least: {self.least} is above num {self.num}: give the fewest first, as in 1:4")

    @property
    def fewest(self) -> int:
        """The smallest number of workers that the run may go on with."""
        return self.least or self.num

    @property
    def count(self) -> str:
        """How many workers, in words: "4", or "1 to 4"."""
        return f"{self.fewest} to {self.num}" if self.fewest < self.num else f"{self.num}"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ValidationConfig:
    """How often to validate, what to show, and when to stop early."""

    every_epochs: int = 1
    """Validate, checkpoint and log after every so many epochs, and at the end."""
    where: Literal["auto", "in_loop", "beside"] = "auto"
    """in_loop: training waits for it; beside: a task of its own, as training goes on; auto: beside if a GPU is free."""
    patience: int = 0
    """Stop early after so many validations without a better mIoU; 0: train to the end."""
    batch_size: int = 8
    """Images of one size evaluated together on a worker."""
    pictures: int = 4
    """So many validation samples, spread over the split, are logged as pictures each time."""

    def __post_init__(self) -> None:
        _positive(every_epochs=self.every_epochs, batch_size=self.batch_size)
        if self.patience < 0:
            raise ValueError(f"patience: {self.patience} must be 0 or more")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CheckpointConfig:
    """How much work may be lost, and which checkpoints stay on storage."""

    every_s: float = 600.0
    """Checkpoint this often, in seconds, besides the ends of epochs: so much work at most is done again."""
    keep_last: int = 2
    """The newest so many are kept: when one turns out to be broken, the one before it takes its place."""
    keep_best: int = 1
    """The best so many by validation mIoU are kept."""
    record_samples: bool = False
    """Keep in each checkpoint which samples made up each step, some 8 bytes a sample: to show that none was lost."""

    def __post_init__(self) -> None:
        _positive(every_s=self.every_s, keep_last=self.keep_last)
        if self.keep_best < 0:
            raise ValueError(f"keep_best: {self.keep_best} must be 0 or more")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RunConfig:
    """One training run, whole."""

    recipe: str = "custom"
    """The recipe this configuration started from."""
    name: str = ""
    """The run's name on storage and in MLflow; empty: recipe and time of day."""
    seed: int = 0
    """Seeds the order of samples, augmentation, initial weights and dropout."""
    start_weights: str = ""
    """Weights to begin with: a path, s3://, https:// or models:/NAME@ALIAS; empty: random ones. What fits is taken."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Arithmetic of the forward pass (autocast); weights stay float32."""
    channels_last: Literal["auto", "yes", "no"] = "auto"
    """Layout of the feature maps; auto: channels_last but for float32 on CPUs, which is slower so."""
    compile: bool = False
    """Compile the network with torch.compile: pays on GPUs in long runs; on CPUs it takes 20-40 s and gains nothing."""
    deterministic: bool = False
    """Only kernels that give the same bits each time on one machine: slower on GPUs."""
    storage: str = ""
    """Where checkpoints go: s3://bucket/prefix or a folder; empty: $ENCNET_STORAGE."""
    experiment: str = "encnet"
    """The MLflow experiment."""
    registered_model: str = ""
    """The registered model that the best weights become a version of; empty: encnet-DATASET."""
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    augment: TransformConfig = field(default_factory=TransformConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain, JSON-ready values."""
        plain: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build from plain values. Raises InputError naming every field at fault, its value and the remedy."""
        try:
            return _ADAPTER.validate_python(values)
        except ValidationError as error:
            raise InputError(explain(error)) from None

    def override(self, changes: Mapping[str, Any]) -> RunConfig:
        """A copy with fields replaced by dotted name, e.g. {"optim.max_steps": "30"}. Raises InputError."""
        values = self.to_dict()
        for path, value in changes.items():
            *parents, leaf = path.split(".")
            place: Any = values
            for parent in parents:
                place = place.get(parent) if isinstance(place, dict) else None
            if not isinstance(place, dict) or leaf not in place or isinstance(place[leaf], dict):
                raise InputError(f"{path}: no such field: {did_you_mean(path, flat(self.to_dict()))}")
            place[leaf] = _parse(value, like=place[leaf]) if isinstance(value, str) else value
        return RunConfig.from_dict(values)


_ADAPTER = TypeAdapter(RunConfig)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain values by dotted name: {"optim": {"lr": 0.1}} -> {"optim.lr": 0.1}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def field_help() -> dict[str, str]:
    """Dotted name -> what the field means, from the docstrings under the fields."""
    schema = _ADAPTER.json_schema()
    return dict(_describe(schema, schema.get("$defs", {}), ""))


def _describe(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, entry in schema["properties"].items():
        reference = entry.get("$ref") or next((part["$ref"] for part in entry.get("allOf", []) if "$ref" in part), None)
        if reference:
            yield from _describe(definitions[reference.rsplit("/", 1)[1]], definitions, f"{prefix}{name}.")
        else:
            choices = " | ".join(map(str, entry.get("enum", [])))
            yield prefix + name, (f"[{choices}] " if choices else "") + entry.get("description", "").replace("\n", " ")


def explain(error: ValidationError) -> str:
    """Every field at fault, its value and the remedy, in one line."""
    return "; ".join(_explain(fault) for fault in error.errors())


def _explain(fault: Any) -> str:
    """One pydantic error as 'field: value: remedy'."""
    path = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "unexpected_keyword_argument":
        return f"{path}: no such field: {did_you_mean(path, field_help())}"
    if fault["type"] == "missing":
        return f"{path}: missing: give a value"
    if fault["type"] == "value_error":  # of a whole section: its message begins with the field
        return f"{path}.{message}" if path else message
    return f"{path}: {fault['input']!r}: {message[0].lower()}{message[1:]}"


def _parse(text: str, *, like: Any) -> Any:
    """What a text from the command line stands for in a field that holds `like`; the rest is pydantic's to convert."""
    if isinstance(like, list):
        return text.split(",")
    # pydantic takes no text for a choice of numbers, Literal[8, 16, 32].
    is_number = type(like) is int and text.removeprefix("-").isdecimal()
    return int(text) if is_number else text


def _positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name}: {value} must be greater than 0")
