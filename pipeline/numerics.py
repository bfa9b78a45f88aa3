"""How torch computes in this process: threads, and kernels that give the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from pipeline.config import RunConfig

_HALF_PRECISION = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "fp16_arith"}}
"""What a CPU can have that computes in a precision, as torch names it."""
_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def numerics(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Compute as the recipe says within the block, and as before after it. Enter it before anything runs on a GPU."""
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(config.workers.cpus)
        with _deterministic() if config.deterministic else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)


def is_emulated(config: RunConfig, device: torch.device, capabilities: Mapping[str, Any] | None = None) -> bool:
    """Whether the recipe's precision is one that this CPU, of `capabilities`, has no arithmetic for."""
    if device.type != "cpu" or config.precision == "float32":
        return False
    able = torch.cpu.get_capabilities() if capabilities is None else capabilities
    return not any(able.get(name) for name in _HALF_PRECISION[config.precision])


@contextmanager
def _deterministic() -> Iterator[None]:
    """Only deterministic kernels: an operation that has none is an error of torch that names it."""
    cudnn = torch.backends.cudnn
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags, workspace = (cudnn.deterministic, cudnn.benchmark), os.environ.get(_CUBLAS_WORKSPACE)
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        os.environ.setdefault(_CUBLAS_WORKSPACE, ":4096:8")
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        cudnn.deterministic, cudnn.benchmark = flags
        if workspace is None:
            os.environ.pop(_CUBLAS_WORKSPACE, None)
