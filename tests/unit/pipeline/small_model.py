"""A network of one block a stage in a folder, for the tests of what is done with a stored model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import encnet
from encnet.backbone import DEPTHS, BasicBlock
from tests.unit.pipeline.made_up_data import CLASSES

CONFIG = encnet.ModelConfig(
    num_classes=len(CLASSES), backbone="resnet18", output_stride=32, head_channels=8, num_codes=2
)


def store_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> encnet.SegmentationNet:
    """Write weights.safetensors into `folder`; returns the network, in evaluation mode.

    Its logits are large, so that the classes differ from place to place.
    """
    monkeypatch.setitem(DEPTHS, "resnet18", (BasicBlock, (1, 1, 1, 1)))
    torch.manual_seed(0)
    network = encnet.build_model(CONFIG)
    classifier = network.head.classifier
    torch.nn.init.normal_(classifier.weight, std=5.0)
    folder.mkdir(parents=True, exist_ok=True)
    encnet.save_weights(network, CONFIG, folder / "weights.safetensors")
    return network.eval()
