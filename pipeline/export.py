"""Export: a model as one file that runs without this code, as ONNX or as torch's own pt2."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

import encnet
from encnet.model import MIN_SIZE
from encnet.weights import CONFIG_KEY
from pipeline.errors import InputError
from pipeline.shards import DatasetInfo

Format = Literal["onnx", "pt2"]

# The lowest that torch has implementations for, so that nothing is converted; read by onnxruntime 1.14 and newer.
OPSET = 18


class _Logits(nn.Module):
    """What a model is asked for after training: images in, logits out."""

    def __init__(self, model: encnet.SegmentationNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images).logits
        return logits


def export_model(
    model: encnet.SegmentationNet, output: Path, kind: Format, metadata: Mapping[str, str], replace: bool = False
) -> None:
    """Write `model` to one file; a reader sees the whole file or none.

    The graph takes "images", (B, 3, H, W) float32, normalised, and gives "logits", (B, num_classes, H, W) float32, for
    any B, H and W that the model itself takes; but a pt2 wants last maps, at stride 32, of more than one pixel.

    Args:
        model: in evaluation mode.
        output: the file, ending in the format's name.
        kind: "onnx" needs the packages onnx and onnxscript.
        metadata: as `describe` makes it; an ONNX file's metadata_props, a pt2's extra files.
        replace: whether `output` may be there already.

    Raises:
        InputError: `output` is there already, or can't be, or a package is missing.
    """
    check_output(output, kind, replace)
    program = _capture(model)
    # A folder for it, since a pt2 has its file's name inside.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=output.parent) as folder:
        written = Path(folder) / output.name
        if kind == "onnx":
            _write_onnx(program, written, metadata)
        else:
            torch.export.save(program, written, extra_files=dict(metadata))
        written.replace(output)


def describe(config: encnet.ModelConfig, source: str, dataset: DatasetInfo | None = None) -> dict[str, str]:
    """Return what a user of an exported file needs to know, as texts: JSON, but for encnet.source.

    The images are RGB: (pixel / 255 - encnet.mean) / encnet.std for each channel.

    Raises:
        InputError: the data set has another number of classes.
    """
    if dataset is not None and len(dataset.classes) != config.num_classes:
        raise InputError(
            f"data: {dataset.name!r} has {len(dataset.classes)} classes, but the model has {config.num_classes}: "
            "name the data set that it was trained on"
        )
    facts = {CONFIG_KEY: asdict(config), "encnet.mean": encnet.IMAGENET_MEAN, "encnet.std": encnet.IMAGENET_STD}
    if dataset is not None:
        facts |= {"encnet.classes": dataset.classes, "encnet.palette": dataset.palette}
    return {"encnet.source": source, **{name: json.dumps(fact) for name, fact in facts.items()}}


def check_output(output: Path, kind: Format, replace: bool) -> None:
    """Raise InputError unless an export to `output` can be written, and is allowed to."""
    lacking = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if kind == "onnx" and lacking:
        raise InputError(
            f"format: onnx needs the package {lacking[0]}: pip install 'encnet-pipeline[export]', or use --format pt2"
        )
    if output.suffix != f".{kind}":
        raise InputError(f"output: {str(output)!r} does not end in .{kind}: rename it, or choose another --format")
    if not output.parent.is_dir():
        raise InputError(f"output: {str(output.parent)!r} is no folder: make it, or choose another --output")
    if output.is_dir():
        raise InputError(f"output: {str(output)!r} is a folder: choose another --output")
    if output.exists() and not replace:
        raise InputError(f"output: {str(output)!r} is there already: choose another --output, or replace it by --force")


def _capture(model: encnet.SegmentationNet) -> ExportedProgram:
    """Trace a model into a graph of any batch size, height and width."""
    # Where the last map is 1 pixel high or wide, torch would take it for always so.
    stride = 32 if model.config.jpu else model.config.output_stride
    least = math.ceil(max(MIN_SIZE, stride + 1) / model.config.input_scale)
    shape = {0: Dim("batch"), 2: Dim("height", min=least), 3: Dim("width", min=least)}
    # Three sizes that differ, none of them 1: torch would take them for one, or for fixed.
    example = torch.zeros(2, 3, 2 * least, 3 * least)
    with torch.no_grad():
        program = torch.export.export(_Logits(model), (example,), dynamic_shapes={"images": shape})
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # this machine's paths are nobody else's business
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch.onnx says of itself: that it copies a deprecated class, and that torchvision isn't there."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _write_onnx(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    import onnx  # an extra: everything else works without it

    with _quiet():
        exported = torch.onnx.export(
            program,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
            opset_version=OPSET,
            verbose=False,
        )
    assert exported is not None
    exported.model.metadata_props.update(metadata)
    proto = exported.model_proto
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())
