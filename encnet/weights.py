"""Weights in and out: safetensors that describe their model, and the layouts of others' checkpoints."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from encnet.config import ModelConfig
from encnet.model import SegmentationNet, build_model

Part = Literal["all", "backbone"]
CONFIG_KEY = "encnet.config"
MAX_NAMES = 5


class Layout(NamedTuple):
    """A way to name the parameters of a network."""

    name: str
    recognises: Callable[[Iterable[str]], bool]
    """Whether a checkpoint with these keys has this layout."""
    translate: Callable[[str], str | None]
    """A key of the checkpoint -> a key of ours, or None for one that is of no use here."""


def _from_torchvision(key: str) -> str | None:
    return None if key.startswith("fc.") else f"backbone.{key}"


LAYOUTS = (
    Layout("encnet", lambda keys: any(key.startswith("backbone.layer1.") for key in keys), lambda key: key),
    Layout("torchvision", lambda keys: any(key.startswith("layer1.") for key in keys), _from_torchvision),
)


def save_weights(
    model: nn.Module, config: ModelConfig, path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a model's weights and config to one safetensors file; a reader sees the whole file or none.

    Args:
        model: what `build_model(config)` returned.
        config: goes into the file's header as JSON.
        path: the file; its folder must exist.
        metadata: more text for the header.
    """
    path = Path(path)
    header = {**(metadata or {}), "format": "pt", CONFIG_KEY: json.dumps(asdict(config))}
    # safetensors takes neither strided tensors (channels_last) nor two names for one memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        save_file(tensors, partial, metadata=header)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_model(path: str | Path) -> tuple[SegmentationNet, ModelConfig]:
    """Build the model that `save_weights` wrote, on the CPU, in evaluation mode. Nothing is unpickled.

    Raises:
        ValueError: the file is missing, damaged, without a config, or its tensors don't fit the config.
    """
    tensors, metadata = _read_safetensors(Path(path))
    if CONFIG_KEY not in metadata:
        raise ValueError(f"{path}: no {CONFIG_KEY} in its header: build the model yourself and use load_weights")
    config = ModelConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    with torch.device("meta"):
        model = build_model(config)
    _check_fit(path, tensors, model.state_dict())
    model.load_state_dict(tensors, assign=True)
    return model.eval(), config


def load_weights(model: nn.Module, path: str | Path, part: Part = "all") -> None:
    """Copy weights from a file into a model: our own safetensors, or torchvision's ImageNet ResNets.

    Tolerated: wrappers with a `state_dict`, a `module.` prefix, classifiers of other tasks, no `num_batches_tracked`.

    Args:
        model: what `build_model` returned; unchanged if the file doesn't fit.
        path: a .safetensors file, or a torch checkpoint, which is read without running code from it.
        part: "all" of the model, or its "backbone" only.

    Raises:
        ValueError: the file is missing, unreadable or of an unknown layout, or keys are missing, unexpected or of
            another shape; they are named.
    """
    path = Path(path)
    if part not in ("all", "backbone"):
        raise ValueError(f"part: {part!r} is not a choice: give 'all' or 'backbone'")
    tensors = _read_safetensors(path)[0] if path.suffix == ".safetensors" else _read_checkpoint(path)
    translated = _translate(path, tensors)
    targets = model.state_dict()
    if part == "backbone":
        translated = {key: value for key, value in translated.items() if key.startswith("backbone.")}
        targets = {key: value for key, value in targets.items() if key.startswith("backbone.")}
    _check_fit(path, translated, targets)
    model.load_state_dict(translated, strict=False)


def _translate(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a checkpoint's tensors to our names."""
    tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    layout = next((layout for layout in LAYOUTS if layout.recognises(tensors)), None)
    if layout is None:
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise ValueError(f"{path}: keys such as {_some(tensors)} are of no known layout: give one of {known}")
    renamed = {layout.translate(key): tensor for key, tensor in tensors.items()}
    return {key: tensor for key, tensor in renamed.items() if key is not None}


def _check_fit(path: str | Path, tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Raise a ValueError that names missing, unexpected and mis-shaped keys."""
    optional = ".num_batches_tracked"
    missing = [key for key in targets if key not in tensors and not key.endswith(optional)]
    unexpected = [key for key in tensors if key not in targets]
    shapes = [
        f"{key} {tuple(tensor.shape)} for {tuple(targets[key].shape)}"
        for key, tensor in tensors.items()
        if key in targets and tensor.shape != targets[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "mis-shaped": shapes}
    found = "; ".join(f"{len(keys)} {fault}: {_some(keys)}" for fault, keys in faults.items() if keys)
    if found:
        raise ValueError(f"{path}: does not fit the model: {found}: match the model's config, or load part='backbone'")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header's metadata."""
    _check_exists(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}): write or download it again") from error


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a torch checkpoint's state dict, on the CPU, refusing anything but plain data."""
    _check_exists(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a torch checkpoint of plain tensors ({reason}): convert it first") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds no state dict of tensors: save model.state_dict() and give that")
    return state


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file: check the path")
