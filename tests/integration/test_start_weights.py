"""Start weights from S3 and from the registry, by the ways that a recipe names them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import encnet
from pipeline.config import RunConfig
from pipeline.errors import InputError
from pipeline.registry import resolve_model
from pipeline.start_weights import load_start_weights
from pipeline.storage import open_store
from tests.integration.conftest import Trained
from tests.running_stack import RunningStack

CONFIG = encnet.ModelConfig(num_classes=5, backbone="resnet18", output_stride=32, head_channels=16)


def test_from_an_object_or_a_checkpoint_s_folder_on_s3(stack: RunningStack, tmp_path: Path) -> None:
    uri, saved, net = "s3://encnet/tests/start/step_0000017", encnet.build_model(CONFIG), encnet.build_model(CONFIG)
    encnet.save_weights(saved, CONFIG, tmp_path / "weights.safetensors")
    open_store(uri).upload("weights.safetensors", tmp_path / "weights.safetensors")
    for source in (uri, f"{uri}/weights.safetensors"):
        assert load_start_weights(net, source) == [f"{source}: all of it"]
        assert all(torch.equal(*pair) for pair in zip(net.parameters(), saved.parameters(), strict=True))
    with pytest.raises(InputError, match=f"^start_weights: {uri}x/weights.safetensors: no such object"):
        load_start_weights(net, f"{uri}x")


def test_from_a_registered_model_of_other_classes(trained: Trained) -> None:
    uri = str(trained.result["model_uri"])
    with resolve_model(uri) as model:
        saved, config = encnet.load_model(model.weights)
    net = encnet.build_model(RunConfig(model=config).override({"model.num_classes": 3}).model)
    notes = load_start_weights(net, uri)
    assert notes[0].startswith(f"{uri}: all but the last layers")
    for name in ("backbone.conv1.weight", "head.bottleneck.conv.weight"):
        assert torch.equal(net.get_parameter(name), saved.get_parameter(name)), name
