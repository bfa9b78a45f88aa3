"""Groups of processes and small networks that the tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from encnet import ModelConfig
from tests.unit.encnet.ranks import Ranks


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=[2, 4], ids=["2-ranks", "4-ranks"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two or four processes of one gloo group."""
    group = Ranks(request.param, tmp_path_factory.mktemp("ranks"))
    yield group
    group.close()


@pytest.fixture(scope="session")
def small() -> ModelConfig:
    """A network that runs in milliseconds."""
    return ModelConfig(num_classes=5, backbone="resnet18", output_stride=32, head_channels=16, num_codes=4)
