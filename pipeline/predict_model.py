"""A model that predicts: its weights as a value that can be sent to a worker, its options, and the classes it finds."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import encnet
from encnet.model import MIN_SIZE
from pipeline.errors import InputError
from pipeline.transforms import Image


class NoMemory(Exception):
    """There is too little memory for so many images of that size."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How images are predicted, and what is written of them."""

    scales: tuple[float, ...] = (1.0,)
    """Image scales whose probabilities are averaged."""
    flip: bool = False
    """Average with the mirrored image."""
    crop_size: int = 0
    """Side of the sliding window; 0: the whole image at once."""
    stride: int = 0
    """Of the window; 0: two thirds of its side."""
    overlay: bool = True
    """Write the image under the classes' colours, too."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < float("inf") for scale in self.scales):
            raise InputError(f"scales: {self.scales}: must be numbers greater than 0")
        if self.crop_size and self.crop_size < MIN_SIZE:
            raise InputError(f"crop_size: {self.crop_size} is too small: give at least {MIN_SIZE}, or 0")
        if self.stride and not self.crop_size:
            raise InputError(f"stride: {self.stride} without a window: give crop_size too")
        if not 0 <= self.stride <= self.crop_size:
            raise InputError(f"stride: {self.stride}: give 1 to crop_size, {self.crop_size}")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A file of weights, in memory; equal to another by its digest."""

    digest: str
    """sha256 (hex) of the file."""
    file_name: str = field(compare=False)
    data: NDArray[np.uint8] = field(compare=False, repr=False)
    """The file's bytes, as an array: Ray's tasks share it instead of copying it."""

    @classmethod
    def read(cls, path: Path) -> Weights:
        data = path.read_bytes()
        return cls(digest=hashlib.sha256(data).hexdigest(), file_name=path.name, data=np.frombuffer(data, np.uint8))


@lru_cache(maxsize=1)  # tasks that follow each other in one process have the same
def load_network(weights: Weights) -> encnet.SegmentationNet:
    """The network in evaluation mode, on the GPU if there is one. InputError where the file holds none."""
    with tempfile.TemporaryDirectory(prefix="encnet-predict-") as folder:
        path = Path(folder) / weights.file_name
        path.write_bytes(weights.data.data)
        try:
            network, _ = encnet.load_model(path)
        except ValueError as error:
            raise InputError(f"MODEL: {str(error).replace(str(path), weights.file_name)}") from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return network.to(device).to(memory_format=memory_format(device)).eval()  # type: ignore[call-overload]


def classify(
    network: encnet.SegmentationNet, images: Sequence[Image], options: Options
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The classes of images of one size, and how probable they are.

    Args:
        network: what `load_network` gives.
        images: B of (H, W, 3) RGB.
        options: how.

    Returns:
        (B, H, W) class ids, (B, H, W) their probabilities.

    Raises:
        NoMemory: for that many of that size.
    """
    device = next(network.parameters()).device
    pixels = torch.from_numpy(np.stack(images))
    try:
        ids, confidence = encnet.predict_with_confidence(
            network,
            encnet.normalize(pixels.to(device), memory_format(device)),
            options.scales,
            options.flip,
            options.crop_size or None,
            options.stride or None,
        )
        return ids.cpu().numpy(), confidence.cpu().numpy()
    except RuntimeError as error:
        if "allocate" not in str(error):  # which torch says where there is no memory, on any device
            raise
        raise NoMemory(str(error)) from error


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout of feature maps that is the faster for float32 inference."""
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last
