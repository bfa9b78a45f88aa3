"""ModelConfig: everything that decides a network's shape, checked when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from encnet.backbone import Backbone, OutputStride, Stem
from encnet.choices import check_choice, nearest
from encnet.context import CodeReduction

Preset = Literal["paper", "pytorch-encoding", "mmseg"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a segmentation network.

    Raises:
        ValueError: a field has a value it cannot have; the message names the field, the value and the remedy.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True, "extra": "forbid"}

    num_classes: int
    """Number of classes; label ids are 0 to num_classes - 1."""

    arch: Literal["encnet", "fcn"] = "encnet"
    """"encnet" has the Context Encoding Module, "fcn" is the same network without it."""

    backbone: Backbone = "resnet50"
    """Depth of the dilated ResNet."""

    stem: Stem = "plain"
    """First convolutions: one 7x7 (plain, fits torchvision's weights), or three 3x3 of 32-32-64 or 64-64-128."""

    output_stride: OutputStride = 8
    """Input size over the size of the map that the head sees: 8 is the most accurate, 32 the fastest."""

    jpu: bool = False
    """Reach output stride 8 by Joint Pyramid Upsampling (FastFCN) instead of dilation: less work, about as accurate."""

    input_scale: float = 1.0
    """The network sees images resized by this; its logits come back at the images' own size. Below 1 it is cheaper."""

    head_channels: int = 512
    """Width of the head, of the context module and of each branch of the JPU."""

    num_codes: int = 32
    """Codewords of the Encoding layer. Of no effect in an fcn."""

    lateral: bool = False
    """Fuse the features of layer2 and layer3 into the head, at stride 8 whatever the output stride."""

    detail_channels: int = 0
    """Refine the head's map at stride 4 with so many channels of layer1 (DeepLabV3+: 48): for thin things; 0: don't."""

    se_loss: bool = True
    """Predict which classes are present, for the SE-loss. Of no effect in an fcn."""

    aux: bool = True
    """An auxiliary FCN head on layer3, used in training only."""

    aux_context: bool = False
    """A second context module and SE branch, in the auxiliary head. Of no effect in an fcn or without aux."""

    dropout: float = 0.1
    """Probability of dropping a channel before each classifier."""

    align_corners: bool = False
    """How bilinear resizing treats the corner pixels, of images, of feature maps and of logits."""

    cem_residual: bool = True
    """The context module's output: relu(x + x * gamma) if true, x * gamma if false."""

    cem_reduction: CodeReduction = "mean"
    """How the K codes become the vector that predicts gamma and the classes present."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is not ClassVar:
                _check_type(name, getattr(self, name), kind)
        for name in ("num_classes", "head_channels", "num_codes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is too small: give at least 1")
        if self.detail_channels < 0:
            raise ValueError(f"detail_channels: {self.detail_channels} is negative: give 48, or 0 for none")
        if not 0 < self.input_scale <= 4:
            raise ValueError(f"input_scale: {self.input_scale} is out of range: give a number above 0, at most 4")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout} is not a probability below 1: give 0 <= dropout < 1")
        if self.jpu and self.output_stride != 8:
            raise ValueError(
                f"output_stride: {self.output_stride} with jpu, which takes a backbone without dilation to stride 8: "
                "leave output_stride at 8, or turn jpu off"
            )

    @classmethod
    def preset(cls, name: Preset, **overrides: Any) -> ModelConfig:
        """Return the network of a publication or code base, with some fields overridden.

        Args:
            name: "paper" (CVPR 2018 as written, PASCAL-Context), "pytorch-encoding" (the authors' code, ADE20K) or
                "mmseg" (mmsegmentation's encnet_r50-d8, ADE20K).
            overrides: fields of ModelConfig.

        Raises:
            ValueError: an unknown preset or field, or a bad value.
        """
        if name not in PRESETS:
            raise ValueError(f"preset: {name!r} is unknown: {nearest(name, PRESETS)}")
        return cls.from_dict({**PRESETS[name], **overrides})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Return the config of `dataclasses.asdict` again.

        Raises:
            ValueError: an unknown or missing field, or a bad value.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"{name}: not a field of ModelConfig: {nearest(name, known)}")
        if "num_classes" not in values:
            raise ValueError("num_classes: missing: give the number of classes of the data set")
        return cls(**values)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "num_classes": 59,
        "align_corners": True,
        "aux_context": True,
        "cem_residual": False,
        "cem_reduction": "sum",
    },
    "pytorch-encoding": {"num_classes": 150, "stem": "deep128", "align_corners": True},
    "mmseg": {"num_classes": 150, "stem": "deep64"},
}


def _check_type(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is Literal:
        check_choice(name, value, get_args(kind))
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: {value!r} is not a number: give one such as 0.1")
    elif type(value) is not kind:
        remedy = "true or false" if kind is bool else "a whole number"
        raise ValueError(f"{name}: {value!r} has the wrong type: give {remedy}")
