"""The README's example runs, and its table of presets is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import encnet
from encnet import ModelConfig
from encnet.config import PRESETS

README = (Path(encnet.__file__).parent / "README.md").read_text()


def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(r"loss \d+\.\d+, mIoU 0\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(("row", "jpu"), [("parameters in training", False), ("the same with `jpu=True`", True)])
def test_sizes_in_the_table_of_presets(row: str, jpu: bool) -> None:
    (line,) = re.findall(rf"^\| {row}.*$", README, re.MULTILINE)
    presets = [ModelConfig.preset(name, num_classes=150, jpu=jpu) for name in PRESETS]  # type: ignore[arg-type]
    costs = [encnet.model_cost(config) for config in (ModelConfig(num_classes=150, jpu=jpu), *presets)]
    assert re.findall(r"([\d.]+) M", line) == [f"{cost.training.parameters / 1e6:.2f}" for cost in costs]


def test_multiply_adds_with_jpu() -> None:
    costs = [encnet.model_cost(ModelConfig(num_classes=150, jpu=jpu)) for jpu in (False, True)]
    dilated, jpu = (f"{cost.inference.multiply_adds / 1e9:.1f}" for cost in costs)
    assert f"{dilated} G multiply-adds become {jpu} G" in README


def test_every_public_name_exists() -> None:
    assert all(hasattr(encnet, name) for name in encnet.__all__)
