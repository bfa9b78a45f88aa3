"""Checkpoint files, on this machine or on the web, read without running code from them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from encnet.config import ModelConfig

CONFIG_KEY = "encnet.config"


class CheckpointFile(NamedTuple):
    """What is of use in a checkpoint."""

    tensors: dict[str, Tensor]
    """The state dict, on the CPU, without a `module.` prefix."""

    config: dict[str, Any]
    """Fields of ModelConfig that the file states: all in ours, align_corners in mmsegmentation's, else none."""


class Discarded:
    """Stands in for an object of a checkpoint that is no weight: it takes the object's state and forgets it."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# What others' training checkpoints hold beside weights: scores as numpy scalars, and mmengine's history of the losses,
# which are numpy arrays and references to methods. The stand-in is called in their place, so that none of them runs.
STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (Discarded, name)
    for name in (
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.dtype",
        "numpy.ndarray",
        "mmengine.logging.history_buffer.HistoryBuffer",
        "builtins.getattr",
    )
]


def read_checkpoint(source: str | Path, progress: bool = True) -> CheckpointFile:
    """Read a checkpoint.

    Args:
        source: a .safetensors file or a torch checkpoint: a path, or an http(s) address, whose file is kept in torch's
            hub cache and fetched from there the next time.
        progress: show the progress of a download on stderr.

    Raises:
        ValueError: the file is missing, can't be downloaded, is damaged, holds no tensors, or holds something that
            cannot be read without running its code.
    """
    if not str(source).startswith(("http://", "https://")):
        return _read(Path(source))
    address = str(source)
    path = _cache_path(address)
    fresh = not path.exists()
    if fresh:
        _download(address, path, progress)
    try:
        return _read(path)
    except ValueError:
        if fresh:
            path.unlink(missing_ok=True)  # a download cut short must not be what the next call finds
        raise


def _cache_path(address: str) -> Path:
    # Files of one name may lie at many addresses, and what is in the cache under a name alone may be anybody's.
    name = f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{PurePosixPath(urlsplit(address).path).name}"
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _download(address: str, path: Path, progress: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path), progress=progress)
    except (OSError, HTTPException) as error:
        raise ValueError(
            f"{address}: cannot be downloaded ({error}): check the address, or fetch the file and give its path"
        ) from error


def _read(path: Path) -> CheckpointFile:
    if not path.is_file():
        raise ValueError(f"{path}: no such file: check the path")
    tensors, config = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return CheckpointFile({key.removeprefix("module."): tensor for key, tensor in tensors.items()}, config)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, and the config from the header if there is one."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}): write or download it again") from error
    try:
        config = json.loads(metadata.get(CONFIG_KEY, "{}"))
        return tensors, asdict(ModelConfig.from_dict(config)) if config else {}
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: {CONFIG_KEY} in its header is not a ModelConfig ({error}): write it again"
        ) from error


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict, bare or in a wrapper, and what the wrapper says of the config."""
    try:
        with torch.serialization.safe_globals(STAND_INS):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch.load raise almost anything
        raise ValueError(f"{path}: {_refusal(error)}") from error
    wrapper = loaded if isinstance(loaded, dict) else {}
    state = wrapper.get("state_dict", wrapper)
    if not _is_state_dict(state):
        raise ValueError(f"{path}: holds no state dict of tensors: save model.state_dict() and give that")
    return state, _stated_fields(wrapper)


def _is_state_dict(state: Any) -> bool:
    if not isinstance(state, dict) or not state:
        return False
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())


def _refusal(error: Exception) -> str:
    """Say why torch.load refused a file. Its own message advises to run the code in it."""
    message = str(error)
    if refused := re.search(r"GLOBAL (\S+)", message):
        return (
            f"not a torch checkpoint of plain tensors (it holds {refused[1]}, which would run code): load it where it "
            "was written and save its state dict alone"
        )
    reason = re.sub(r"(?s)^Weights only load failed.*?\n\n", "", message).partition("\n")[0]
    return f"not a readable torch checkpoint ({reason or type(error).__name__}): write or download it again"


def _stated_fields(wrapper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the align_corners that the config in an mmsegmentation checkpoint names, if it names one only."""
    meta = wrapper.get("meta")
    texts = [meta.get(name) for name in ("config", "cfg")] if isinstance(meta, dict) else []
    text = " ".join(text for text in texts if isinstance(text, str))
    named = set(re.findall(r"align_corners['\"]?\s*[=:]\s*(True|False)", text))
    return {"align_corners": named == {"True"}} if len(named) == 1 else {}
