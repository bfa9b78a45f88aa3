"""What a run sets in torch is as before when it is over; what a CPU would only emulate is known."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Literal

import pytest
import torch

from encnet import ModelConfig
from pipeline.config import RunConfig, WorkersConfig
from pipeline.numerics import is_emulated, numerics

CPU = torch.device("cpu")


def _settings() -> tuple[object, ...]:
    cudnn = torch.backends.cudnn
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


def _config(deterministic: bool) -> RunConfig:
    model = ModelConfig(num_classes=3)
    return RunConfig(model=model, deterministic=deterministic, workers=WorkersConfig(cpus=3))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_all_is_as_before_afterwards(
    deterministic: bool, workspace: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    before = _settings()
    with pytest.raises(KeyError), numerics(_config(deterministic), CPU):  # noqa: PT012
        wanted = workspace or (":4096:8" if deterministic else None)
        assert _settings() == (3, deterministic, False, deterministic, before[4] and not deterministic, wanted)
        raise KeyError
    assert _settings() == before


def test_a_deterministic_run_refuses_what_is_not() -> None:
    values, places = torch.ones(1, 1, 2, 2), torch.arange(4).view(1, 1, 2, 2)
    with numerics(_config(True), CPU), pytest.raises(RuntimeError, match="deterministic"):
        torch.nn.MaxUnpool2d(2)(values, places)


@pytest.mark.parametrize(
    ("precision", "capabilities", "emulated"),
    [
        ("float32", {}, False),
        ("bf16", {"avx512_f": True}, True),
        ("bf16", {"avx512_bf16": False, "amx_bf16": True}, False),
        ("bf16", {"architecture": "aarch64", "bf16": True}, False),
        ("fp16", {"amx_bf16": True}, True),
        ("fp16", {"avx512_fp16": True}, False),
    ],
)
def test_what_a_cpu_would_emulate(
    precision: Literal["float32", "bf16", "fp16"], capabilities: dict[str, object], emulated: bool
) -> None:
    config = replace(_config(False), precision=precision)
    assert is_emulated(config, CPU, capabilities) is emulated
    assert not is_emulated(config, torch.device("cuda"), capabilities)
