"""The names that code bases give a network's parameters, and what tensors tell of the network they are for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from encnet.backbone import DEPTHS, STEM_WIDTHS, BasicBlock, Bottleneck


class Layout(NamedTuple):
    """The names of one code base."""

    name: str

    marks: tuple[str, ...]
    """A checkpoint with a key that starts with one of these has this layout."""

    prefixes: Mapping[str, str | None]
    """Start of a key -> start of our name, None for what is of no use here. The first one that fits counts."""

    behaviour: Mapping[str, Any]
    """Fields of ModelConfig that no tensor shows, as all models of the code base have them."""

    def translate(self, key: str) -> str | None:
        """Return our name of a key, the key itself where no row fits, or None for what is of no use here."""
        for theirs, ours in self.prefixes.items():
            if key.startswith(theirs):
                return None if ours is None else ours + key.removeprefix(theirs)
        return key


def _conv_bn(theirs: str, ours: str) -> dict[str, str | None]:
    """Rows for a Sequential of convolution, BatchNorm and ReLU."""
    return {f"{theirs}.0.": f"{ours}.conv.", f"{theirs}.1.": f"{ours}.bn."}


MMSEGMENTATION = Layout(
    "mmsegmentation",
    marks=("decode_head.", "backbone.stem.", "head.fc."),
    prefixes={
        "head.fc.": None,  # of the code base's ImageNet classifiers
        "backbone.stem.7.": "backbone.bn1.",
        "backbone.stem.": "backbone.conv1.",
        "decode_head.bottleneck.": "head.bottleneck.",
        "decode_head.convs.0.": "head.bottleneck.",  # of an FCN
        "decode_head.lateral_convs.": "head.lateral.",
        "decode_head.fusion.": "head.fusion.",
        "decode_head.enc_module.encoding_project.": "head.context.project.",
        "decode_head.enc_module.encoding.0.": "head.context.encoding.",
        "decode_head.enc_module.encoding.1.": "head.context.norm.",
        "decode_head.enc_module.fc.0.": "head.context.fc.",
        "decode_head.se_layer.": "head.context.se.",
        "decode_head.conv_seg.": "head.classifier.",
        "auxiliary_head.convs.0.": "aux_head.bottleneck.",
        "auxiliary_head.conv_seg.": "aux_head.classifier.",
    },
    behaviour={"align_corners": False, "cem_residual": True, "cem_reduction": "mean"},
)

PYTORCH_ENCODING = Layout(
    "PyTorch-Encoding",
    marks=("pretrained.",),
    prefixes={
        "pretrained.fc.": None,
        "pretrained.": "backbone.",
        **_conv_bn("head.conv5", "head.bottleneck"),
        "head.conv5.4.": "head.classifier.",  # of an FCN
        **_conv_bn("head.connect.0", "head.lateral.0"),
        **_conv_bn("head.connect.1", "head.lateral.1"),
        **_conv_bn("head.fusion", "head.fusion"),
        **_conv_bn("head.encmodule.encoding", "head.context.project"),
        "head.encmodule.encoding.3.": "head.context.encoding.",
        "head.encmodule.encoding.4.": "head.context.norm.",
        "head.encmodule.fc.0.": "head.context.fc.",
        "head.encmodule.selayer.": "head.context.se.",
        "head.conv6.1.": "head.classifier.",
        **_conv_bn("auxlayer.conv5", "aux_head.bottleneck"),
        "auxlayer.conv5.4.": "aux_head.classifier.",
    },
    behaviour={"align_corners": True, "cem_residual": True, "cem_reduction": "mean"},
)

TORCHVISION = Layout(
    "torchvision",
    marks=("layer1.", "classifier.0."),
    prefixes={
        # Of its FCNs, whose backbones have our names.
        "backbone.": "backbone.",
        "classifier.0.": "head.bottleneck.conv.",
        "classifier.1.": "head.bottleneck.bn.",
        "classifier.4.": "head.classifier.",
        "aux_classifier.0.": "aux_head.bottleneck.conv.",
        "aux_classifier.1.": "aux_head.bottleneck.bn.",
        "aux_classifier.4.": "aux_head.classifier.",
        # Of ImageNet's ResNets. The deep stems of the other code bases' come along: `conv1.0.` and `stem.0.`.
        "fc.": None,
        "stem.7.": "backbone.bn1.",
        "stem.": "backbone.conv1.",
        "": "backbone.",
    },
    behaviour={"align_corners": False},
)

ENCNET = Layout("encnet", marks=("backbone.layer1.",), prefixes={}, behaviour={})

LAYOUTS = (MMSEGMENTATION, PYTORCH_ENCODING, TORCHVISION, ENCNET)


def find_layout(keys: Collection[str]) -> Layout | None:
    """Return the layout that the keys of a state dict show, or None."""
    return next((layout for layout in LAYOUTS if any(key.startswith(layout.marks) for key in keys)), None)


def infer_fields(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the fields of ModelConfig that a network's tensors show.

    Args:
        tensors: a state dict, or part of one, under our names.

    Returns:
        The backbone's fields if there is one of ours, and the heads' if there are heads: those that the config of a
        network with such tensors must have.
    """
    fields: dict[str, Any] = {"backbone": _backbone(tensors), "stem": _stem(tensors)}
    if "head.classifier.weight" in tensors:
        fields |= {
            "num_classes": _size(tensors, "head.classifier.weight", 0),
            "head_channels": _size(tensors, "head.classifier.weight", 1),
            "jpu": _has(tensors, "jpu.project."),
            "lateral": _has(tensors, "head.lateral."),
            "detail_channels": _size(tensors, "head.detail.conv.weight", 0) or 0,
            "aux": _has(tensors, "aux_head."),
            "arch": "encnet" if _has(tensors, "head.context.") else "fcn",
        }
    if _has(tensors, "head.context."):
        fields |= {
            "num_codes": _size(tensors, "head.context.encoding.codewords", 0),
            "se_loss": _has(tensors, "head.context.se."),
            "aux_context": _has(tensors, "aux_head.context."),
        }
    return {name: value for name, value in fields.items() if value is not None}


def _backbone(tensors: Mapping[str, Tensor]) -> str | None:
    """Tell a ResNet by its kind of block and the number of blocks in each stage."""
    blocks = {match.groups() for key in tensors if (match := re.match(r"backbone\.layer([1-4])\.(\d+)\.", key))}
    depths = tuple(sum(stage == wanted for stage, _ in blocks) for wanted in "1234")
    block = Bottleneck if "backbone.layer1.0.conv3.weight" in tensors else BasicBlock
    return next((name for name, shape in DEPTHS.items() if shape == (block, depths)), None)


def _stem(tensors: Mapping[str, Tensor]) -> str | None:
    """Tell a stem by the widths of its convolutions."""
    if "backbone.conv1.weight" in tensors:
        return "plain"
    widths = tuple(_size(tensors, f"backbone.conv1.{index}.weight", 0) for index in (0, 3, 6))
    return next((name for name, known in STEM_WIDTHS.items() if known == widths), None)


def _size(tensors: Mapping[str, Tensor], name: str, dim: int) -> int | None:
    sizes = tensors[name].shape[dim:] if name in tensors else ()
    return sizes[0] if sizes else None


def _has(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in tensors)
