"""Names and shapes of other code bases' checkpoints, and what they tell of their network."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encnet import ModelConfig, build_model
from encnet.backbone import Backbone, Stem
from encnet.layouts import LAYOUTS, MMSEGMENTATION, PYTORCH_ENCODING, Layout, find_layout, infer_fields

Shapes = dict[str, tuple[int, ...]]

# PyTorch-Encoding, mmsegmentation, ours, shape (a number: BatchNorm of so many channels), for c classes
CLASSES = 59
HEADS: list[tuple[str, str, str, tuple[int, ...] | int]] = [
    ("head.conv5.0.weight", "decode_head.bottleneck.conv.weight", "head.bottleneck.conv.weight", (512, 2048, 3, 3)),
    ("head.conv5.1", "decode_head.bottleneck.bn", "head.bottleneck.bn", 512),
    (
        "head.connect.0.0.weight",
        "decode_head.lateral_convs.0.conv.weight",
        "head.lateral.0.conv.weight",
        (512, 512, 1, 1),
    ),
    ("head.connect.0.1", "decode_head.lateral_convs.0.bn", "head.lateral.0.bn", 512),
    (
        "head.connect.1.0.weight",
        "decode_head.lateral_convs.1.conv.weight",
        "head.lateral.1.conv.weight",
        (512, 1024, 1, 1),
    ),
    ("head.connect.1.1", "decode_head.lateral_convs.1.bn", "head.lateral.1.bn", 512),
    ("head.fusion.0.weight", "decode_head.fusion.conv.weight", "head.fusion.conv.weight", (512, 1536, 3, 3)),
    ("head.fusion.1", "decode_head.fusion.bn", "head.fusion.bn", 512),
    (
        "head.encmodule.encoding.0.weight",
        "decode_head.enc_module.encoding_project.conv.weight",
        "head.context.project.conv.weight",
        (512, 512, 1, 1),
    ),
    ("head.encmodule.encoding.1", "decode_head.enc_module.encoding_project.bn", "head.context.project.bn", 512),
    (
        "head.encmodule.encoding.3.codewords",
        "decode_head.enc_module.encoding.0.codewords",
        "head.context.encoding.codewords",
        (32, 512),
    ),
    (
        "head.encmodule.encoding.3.scale",
        "decode_head.enc_module.encoding.0.scale",
        "head.context.encoding.scale",
        (32,),
    ),
    ("head.encmodule.encoding.4", "decode_head.enc_module.encoding.1", "head.context.norm", 32),
    ("head.encmodule.fc.0.weight", "decode_head.enc_module.fc.0.weight", "head.context.fc.weight", (512, 512)),
    ("head.encmodule.fc.0.bias", "decode_head.enc_module.fc.0.bias", "head.context.fc.bias", (512,)),
    ("head.encmodule.selayer.weight", "decode_head.se_layer.weight", "head.context.se.weight", (CLASSES, 512)),
    ("head.encmodule.selayer.bias", "decode_head.se_layer.bias", "head.context.se.bias", (CLASSES,)),
    ("head.conv6.1.weight", "decode_head.conv_seg.weight", "head.classifier.weight", (CLASSES, 512, 1, 1)),
    ("head.conv6.1.bias", "decode_head.conv_seg.bias", "head.classifier.bias", (CLASSES,)),
    (
        "auxlayer.conv5.0.weight",
        "auxiliary_head.convs.0.conv.weight",
        "aux_head.bottleneck.conv.weight",
        (256, 1024, 3, 3),
    ),
    ("auxlayer.conv5.1", "auxiliary_head.convs.0.bn", "aux_head.bottleneck.bn", 256),
    ("auxlayer.conv5.4.weight", "auxiliary_head.conv_seg.weight", "aux_head.classifier.weight", (CLASSES, 256, 1, 1)),
    ("auxlayer.conv5.4.bias", "auxiliary_head.conv_seg.bias", "aux_head.classifier.bias", (CLASSES,)),
]


def batch_norm(name: str, channels: int) -> Shapes:
    vectors = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def deep_stem(names: list[str], widths: tuple[int, int, int]) -> Shapes:
    """Names of the convolutions and BatchNorms, in turn."""
    shapes: Shapes = {}
    for index, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
        shapes[f"{names[2 * index]}.weight"] = (outputs, inputs, 3, 3)
        shapes |= batch_norm(names[2 * index + 1], outputs)
    return shapes


def stages(prefix: str, stem_width: int) -> Shapes:
    """layer1 to layer4 of a ResNet-50."""
    shapes: Shapes = {}
    inputs = stem_width
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            name = f"{prefix}.layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, inputs, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * width, width, 1, 1)
            shapes |= batch_norm(f"{name}.bn1", width) | batch_norm(f"{name}.bn2", width)
            shapes |= batch_norm(f"{name}.bn3", 4 * width)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                shapes |= batch_norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    return shapes


def heads(column: int) -> Shapes:
    shapes: Shapes = {}
    for row in HEADS:
        name, shape = row[column], row[3]
        assert isinstance(name, str)
        shapes |= batch_norm(name, shape) if isinstance(shape, int) else {name: shape}
    return shapes


def pytorch_encoding() -> Shapes:
    conv1 = "pretrained.conv1"
    names = [f"{conv1}.0", f"{conv1}.1", f"{conv1}.3", f"{conv1}.4", f"{conv1}.6", "pretrained.bn1"]
    classifier = {"pretrained.fc.weight": (1000, 2048), "pretrained.fc.bias": (1000,)}
    return deep_stem(names, (64, 64, 128)) | stages("pretrained", 128) | classifier | heads(0)


def mmsegmentation() -> Shapes:
    names = [f"backbone.stem.{index}" for index in (0, 1, 3, 4, 6, 7)]
    return deep_stem(names, (32, 32, 64)) | stages("backbone", 64) | heads(1)


def tensors(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def state(**fields: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build_model(ModelConfig(**fields)).state_dict()


@pytest.mark.parametrize(
    ("layout", "theirs", "stem"),
    [(PYTORCH_ENCODING, pytorch_encoding(), "deep128"), (MMSEGMENTATION, mmsegmentation(), "deep64")],
    ids=["PyTorch-Encoding", "mmsegmentation"],
)
def test_every_row_has_our_name_and_shape(layout: Layout, theirs: Shapes, stem: str) -> None:
    assert find_layout(theirs) is layout
    ours = {layout.translate(key): shape for key, shape in theirs.items()}
    ours.pop(None, None)
    expected = {name: tuple(tensor.shape) for name, tensor in state(num_classes=59, stem=stem, lateral=True).items()}
    assert ours == expected


@pytest.mark.parametrize(("layout", "column"), [(PYTORCH_ENCODING, 0), (MMSEGMENTATION, 1)])
def test_each_row_goes_where_the_table_says(layout: Layout, column: int) -> None:
    """Many shapes are alike: that they fit doesn't say that the names are right."""
    for row in HEADS:
        suffix = ".running_mean" if isinstance(row[3], int) else ""
        assert layout.translate(f"{row[column]}{suffix}") == f"{row[2]}{suffix}"


@pytest.mark.parametrize(
    ("key", "layout", "ours"),
    [
        ("pretrained.conv1.weight", "PyTorch-Encoding", "backbone.conv1.weight"),
        ("pretrained.conv1.4.bias", "PyTorch-Encoding", "backbone.conv1.4.bias"),
        ("pretrained.bn1.bias", "PyTorch-Encoding", "backbone.bn1.bias"),
        ("pretrained.layer2.0.downsample.1.bias", "PyTorch-Encoding", "backbone.layer2.0.downsample.1.bias"),
        ("pretrained.fc.bias", "PyTorch-Encoding", None),
        ("head.conv5.4.bias", "PyTorch-Encoding", "head.classifier.bias"),
        ("head.jump.0.bias", "PyTorch-Encoding", "head.jump.0.bias"),
        ("backbone.stem.4.bias", "mmsegmentation", "backbone.conv1.4.bias"),
        ("backbone.stem.7.bias", "mmsegmentation", "backbone.bn1.bias"),
        ("backbone.conv1.weight", "mmsegmentation", "backbone.conv1.weight"),
        ("backbone.layer3.2.bn2.bias", "mmsegmentation", "backbone.layer3.2.bn2.bias"),
        ("decode_head.convs.0.bn.bias", "mmsegmentation", "head.bottleneck.bn.bias"),
        ("decode_head.convs.1.bn.bias", "mmsegmentation", "decode_head.convs.1.bn.bias"),
        ("head.fc.bias", "mmsegmentation", None),
        ("conv1.weight", "torchvision", "backbone.conv1.weight"),
        ("layer4.0.downsample.0.weight", "torchvision", "backbone.layer4.0.downsample.0.weight"),
        ("fc.weight", "torchvision", None),
        ("stem.3.weight", "torchvision", "backbone.conv1.3.weight"),
        ("stem.7.weight", "torchvision", "backbone.bn1.weight"),
        ("backbone.layer4.0.conv1.weight", "torchvision", "backbone.layer4.0.conv1.weight"),
        ("classifier.0.weight", "torchvision", "head.bottleneck.conv.weight"),
        ("classifier.1.running_mean", "torchvision", "head.bottleneck.bn.running_mean"),
        ("classifier.4.bias", "torchvision", "head.classifier.bias"),
        ("aux_classifier.4.bias", "torchvision", "aux_head.classifier.bias"),
        ("head.classifier.bias", "encnet", "head.classifier.bias"),
    ],
)
def test_translations(key: str, layout: str, ours: str | None) -> None:
    (found,) = (candidate for candidate in LAYOUTS if candidate.name == layout)
    assert found.translate(key) == ours


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (["backbone.layer1.0.conv1.weight", "decode_head.conv_seg.bias"], "mmsegmentation"),
        (["backbone.layer1.0.conv1.weight", "backbone.stem.0.weight"], "mmsegmentation"),
        (["backbone.layer1.0.conv1.weight", "head.fc.weight"], "mmsegmentation"),
        (["backbone.layer1.0.conv1.weight", "head.classifier.bias"], "encnet"),
        (["pretrained.layer1.0.conv1.weight", "head.conv6.1.bias"], "PyTorch-Encoding"),
        (["conv1.0.weight", "layer1.0.conv1.weight"], "torchvision"),
        (["backbone.layer1.0.conv1.weight", "classifier.0.weight"], "torchvision"),
    ],
)
def test_recognises(keys: list[str], name: str) -> None:
    found = find_layout(keys)
    assert found is not None
    assert found.name == name


def test_knows_no_other() -> None:
    assert find_layout(["encoder.layer1.0.weight", "decoder.weight"]) is None
    assert find_layout([]) is None


@settings(max_examples=15, deadline=None)
@given(
    backbone=st.sampled_from(["resnet18", "resnet50"]),
    stem=st.sampled_from(get_args(Stem)),
    arch=st.sampled_from(["encnet", "fcn"]),
    widths=st.tuples(*[st.integers(1, 9)] * 3, st.integers(0, 9)),
    switches=st.tuples(*[st.booleans()] * 5),
)
def test_reads_the_config_off_the_tensors(
    backbone: str, stem: str, arch: str, widths: tuple[int, ...], switches: tuple[bool, ...]
) -> None:
    names = (
        "num_classes",
        "head_channels",
        "num_codes",
        "detail_channels",
        "lateral",
        "se_loss",
        "aux",
        "aux_context",
        "jpu",
    )
    config = dict(zip(names, (*widths, *switches), strict=True)) | {"backbone": backbone, "stem": stem, "arch": arch}
    read = infer_fields(state(**config))
    of_no_effect = {"num_codes", "se_loss", "aux_context"} if arch == "fcn" else set()
    assert read.keys() == config.keys() - of_no_effect
    expected = config | ({} if config["aux"] else {"aux_context": False})
    assert read == {name: expected[name] for name in read}


@pytest.mark.parametrize("backbone", get_args(Backbone))
def test_tells_the_depths_apart(backbone: str) -> None:
    assert infer_fields(state(num_classes=2, backbone=backbone))["backbone"] == backbone


def test_infers_no_more_than_the_tensors_show() -> None:
    read = infer_fields(state(num_classes=2, head_channels=8))
    assert read.keys() < asdict(ModelConfig(num_classes=2)).keys()
    backbone = {name: tensor for name, tensor in state(num_classes=2).items() if name.startswith("backbone.")}
    assert infer_fields(backbone) == {"backbone": "resnet50", "stem": "plain"}
    backbone.pop("backbone.conv1.weight")
    shallow = {name: tensor for name, tensor in backbone.items() if ".layer3.5." not in name}
    assert infer_fields(shallow) == {}
    strange = {f"backbone.conv1.{index}.weight": torch.empty(48, 48, 3, 3) for index in (0, 3, 6)}
    assert infer_fields(strange) == {}
    flat = {name: torch.empty(()) for name in (*strange, "head.classifier.weight", "head.context.encoding.codewords")}
    assert "num_classes" not in infer_fields(flat)
