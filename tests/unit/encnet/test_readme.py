"""The README's example runs, and its table of presets is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import encnet
from encnet import ModelConfig, build_model
from encnet.config import PRESETS

README = (Path(encnet.__file__).parent / "README.md").read_text()


def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(r"loss \d+\.\d+, mIoU 0\.\d+\n", capsys.readouterr().out)


def test_sizes_in_the_table_of_presets() -> None:
    (row,) = re.findall(r"^\| parameters in training.*$", README, re.MULTILINE)
    configs = [ModelConfig(num_classes=150)] + [ModelConfig.preset(name, num_classes=150) for name in PRESETS]  # type: ignore[arg-type]
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in build_model(config).parameters()) for config in configs]
    assert re.findall(r"([\d.]+) M", row) == [f"{size / 1e6:.2f}" for size in sizes]


def test_every_public_name_exists() -> None:
    assert all(hasattr(encnet, name) for name in encnet.__all__)
