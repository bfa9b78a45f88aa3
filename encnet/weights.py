"""Weights in and out: safetensors that describe their model, and the checkpoints of other code bases."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from encnet.backbone import DEPTHS
from encnet.checkpoint_file import CONFIG_KEY, read_checkpoint
from encnet.choices import check_choice
from encnet.config import ModelConfig
from encnet.jpu import JPU
from encnet.layouts import LAYOUTS, find_layout, infer_fields
from encnet.model import Head, SegmentationNet, build_model

Part = Literal["all", "all-but-classifiers", "backbone"]

MAX_NAMES = 5
CLASSIFIERS = ("head.classifier.", "aux_head.classifier.", "head.context.se.", "aux_head.context.se.")
CLASSIFIER_FIELDS = {"num_classes", "se_loss"}
BACKBONE_FIELDS = {"backbone", "stem"}
CONTEXT_FIELDS = {"cem_residual", "cem_reduction"}
"""These change what the same tensors compute."""
FREE_FIELDS = {"output_stride", "input_scale", "dropout", "align_corners"}
"""A model that weights are loaded into may have others than the one they were trained in."""

logger = logging.getLogger(__name__)


def save_weights(
    model: nn.Module | Mapping[str, Tensor],
    config: ModelConfig,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model's weights and config to one safetensors file; a reader sees the whole file or none.

    Args:
        model: what `build_model(config)` returned, or its state dict.
        config: goes into the file's header as JSON.
        path: the file; its folder must exist.
        metadata: more text for the header.
    """
    path = Path(path)
    header = {**(metadata or {}), "format": "pt", CONFIG_KEY: json.dumps(asdict(config))}
    # safetensors takes neither strided tensors (channels_last) nor two names for one memory.
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        save_file(tensors, partial, metadata=header)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_config(source: str | Path, progress: bool = True) -> ModelConfig:
    """Return the config of the model whose weights a file holds.

    Args:
        source: as for `load_model`.
        progress: as for `load_model`.

    Raises:
        ValueError: as for `load_model`.
    """
    return _config(_open(source, progress))


def load_model(source: str | Path, progress: bool = True) -> tuple[SegmentationNet, ModelConfig]:
    """Build the model whose weights a file holds, on the CPU, in evaluation mode, without running code from the file.

    Args:
        source: a path or http(s) address: what `save_weights` wrote, or a checkpoint of an EncNet or FCN by
            PyTorch-Encoding or mmsegmentation, whose config is read off its tensors.
        progress: show the progress of a download on stderr.

    Raises:
        ValueError: the file is missing, damaged, of an unknown layout, doesn't tell its model's config, or its tensors
            don't fit the config.
    """
    checkpoint = _open(source, progress)
    config = _config(checkpoint)
    try:
        with torch.device("meta"):
            model = build_model(config)
    except (RuntimeError, TypeError) as error:  # sizes that no memory holds
        raise ValueError(f"{source}: no network can be built as its config says ({error}): write it again") from error
    targets = model.state_dict()
    _check_fit(checkpoint, "all", targets, config)
    # Only counts of batches may be missing.
    counts = {name: torch.zeros_like(targets[name], device="cpu") for name in targets.keys() - checkpoint.tensors}
    model.load_state_dict({**_of_one_precision(checkpoint.tensors), **counts}, assign=True)
    return model.eval(), config


def load_weights(model: nn.Module, source: str | Path, part: Part = "all", progress: bool = True) -> None:
    """Copy weights from a file into a model: ours, PyTorch-Encoding's, mmsegmentation's or an ImageNet ResNet's.

    Tolerated: wrappers with a `state_dict`, a `module.` prefix, ImageNet classifiers, no `num_batches_tracked`.
    If `part` is "all", the model's `align_corners` becomes that of the model the weights come from, and a log entry of
    level INFO says so: go on with `model.config`, when saving and for the loss.

    Args:
        model: what `build_model` returned; unchanged if the file doesn't fit.
        source: a path or http(s) address of a .safetensors file or a torch checkpoint, which is read without running
            code from it.
        part: "all" of the model, its "backbone" only, or "all-but-classifiers", for other classes: without the last
            layers of the heads and without the SE branch.
        progress: show the progress of a download on stderr.

    Raises:
        ValueError: the file is missing, unreadable or of an unknown layout; or keys are missing, left over or of
            another shape: they are named, and the options with which the model would fit.
    """
    check_choice("part", part, get_args(Part))
    if not isinstance(model, SegmentationNet):
        raise ValueError(f"model: a {type(model).__name__} is not what build_model returned: give the model inside it")
    checkpoint = _open(source, progress)
    chosen = checkpoint._replace(tensors=_select(checkpoint.tensors, part))
    _check_fit(chosen, part, _select(model.state_dict(), part), model.config)
    model.load_state_dict(chosen.tensors, strict=False)
    if part == "all":
        _adopt_align_corners(model, checkpoint)


class _Checkpoint(NamedTuple):
    """Tensors under our names."""

    source: str | Path
    tensors: dict[str, Tensor]
    keys: dict[str, str]
    """Our name -> the file's."""
    fields: dict[str, Any]
    """What is known of its model's config: all where the file states it."""


def _open(source: str | Path, progress: bool) -> _Checkpoint:
    """Read a file and translate its keys."""
    file = read_checkpoint(source, progress)
    layout = find_layout(file.tensors)
    if layout is None:
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise ValueError(f"{source}: keys such as {_some(file.tensors)} are of no known layout: give one of {known}")
    keys = {name: key for key in file.tensors if (name := layout.translate(key)) is not None}
    tensors = {name: file.tensors[key] for name, key in keys.items()}
    return _Checkpoint(source, tensors, keys, {**infer_fields(tensors), **layout.behaviour, **file.config})


def _config(checkpoint: _Checkpoint) -> ModelConfig:
    source, fields = checkpoint.source, checkpoint.fields
    if "num_classes" not in fields:
        raise ValueError(f"{source}: holds no whole model: build one, and load_weights(..., part='backbone')")
    for name, choices in {"backbone": ", ".join(DEPTHS), "stem": "plain, deep64, deep128"}.items():
        if name not in fields:
            raise ValueError(f"{source}: its {name} is none of {choices}: give a checkpoint of one of these")
    if "align_corners" not in fields:
        raise ValueError(f"{source}: no {CONFIG_KEY} in its header: build the model yourself and use load_weights")
    try:
        return ModelConfig.from_dict(fields)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _select(tensors: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    """Return the tensors of a part of the model."""
    if part == "backbone":
        return {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    left_out = CLASSIFIERS if part == "all-but-classifiers" else ()
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}


def _check_fit(checkpoint: _Checkpoint, part: Part, targets: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise a ValueError that names missing, left over and mis-shaped keys, and what to do."""
    tensors, optional = checkpoint.tensors, ".num_batches_tracked"
    missing = [name for name in targets if name not in tensors and not name.endswith(optional)]
    left_over = [checkpoint.keys[name] for name in tensors if name not in targets]
    unfit = [name for name, tensor in tensors.items() if name in targets and not _is_plain(tensor, targets[name])]
    shapes = [
        f"{name} {tuple(tensor.shape)} for {tuple(targets[name].shape)}"
        for name, tensor in tensors.items()
        if name in targets and name not in unfit and tensor.shape != targets[name].shape
    ]
    faults = {
        "missing": missing,
        "left over": left_over,
        "mis-shaped": shapes,
        "sparse, quantised or of another kind of number": unfit,
    }
    found = "; ".join(f"{len(names)} {fault}: {_some(names)}" for fault, names in faults.items() if names)
    other = _differences(checkpoint.fields, config, part)
    if not found and config.arch == "encnet" and CONTEXT_FIELDS & other.keys():
        found = "its tensors do, but its context module computes otherwise"
    if found:
        raise ValueError(f"{checkpoint.source}: does not fit the model: {found}: {_remedy(checkpoint, other, part)}")


def _of_one_precision(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are, or where their precisions differ, which no forward pass could work with, in float32."""
    if len({tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}) < 2:
        return tensors
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _is_plain(tensor: Tensor, target: Tensor) -> bool:
    """Whether a tensor can be copied into another without loss of more than digits."""
    special = tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested
    if special or tensor.is_complex() or tensor.is_floating_point() != target.is_floating_point():
        return False
    return not tensor.is_floating_point() or tensor.dtype.itemsize > 1


def _differences(fields: Mapping[str, Any], config: ModelConfig, part: Part) -> dict[str, Any]:
    """Return those of the checkpoint's fields that the model would need for this part and doesn't have."""
    if part == "backbone":
        needed = BACKBONE_FIELDS
    else:
        needed = fields.keys() - FREE_FIELDS - (CLASSIFIER_FIELDS if part == "all-but-classifiers" else set())
    return {name: value for name, value in fields.items() if name in needed and value != getattr(config, name)}


def _remedy(checkpoint: _Checkpoint, other: Mapping[str, Any], part: Part) -> str:
    """Say how the file can be loaded."""
    build = "build the model with " + ", ".join(f"{name}={value!r}" for name, value in other.items())
    if part != "backbone" and "num_classes" not in checkpoint.fields:
        load = "load part='backbone', which is all that can be used of it"
        return f"{build} and {load}" if other else load
    if "num_classes" in other and other.keys() <= CLASSIFIER_FIELDS:
        return f"{build}, or load part='all-but-classifiers'"
    if other:
        return build
    another = (
        f"give a checkpoint of {', '.join(DEPTHS)}" if part == "backbone" else "load part='backbone' if that helps"
    )
    return f"no option of the model makes it fit: {another}"


def _adopt_align_corners(model: SegmentationNet, checkpoint: _Checkpoint) -> None:
    """Resize as the model did that the weights come from, where that is known."""
    align_corners = checkpoint.fields.get("align_corners", model.config.align_corners)
    if align_corners == model.config.align_corners:
        return
    logger.info("%s: its model has align_corners=%s, set on this one", checkpoint.source, align_corners)
    model.config = replace(model.config, align_corners=align_corners)
    for module in model.modules():
        if isinstance(module, Head | JPU):
            module.align_corners = align_corners


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
