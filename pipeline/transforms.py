"""What is done to a sample on its way into a batch: how it may be augmented, and how its bytes are decoded.

`pipeline.augment` does the augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.errors import InputError

Image = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Label = NDArray[np.uint8]
"""(H, W) train ids, 255 = ignore."""

PADDING_RGB = (124, 116, 104)
"""The ImageNet mean, 255 * (0.485, 0.456, 0.406): what pads an image is zero once normalised."""


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """Augmentation of a training sample.

    Each change draws random numbers of its own: one that is switched on leaves the others as they were.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True, "extra": "forbid"}

    crop_size: tuple[int, int] = (480, 480)
    """Height and width, in pixels, of every training image."""
    base_size: int = 0
    """Side, in pixels, that an image of scale 1 has: 520 with crops of 480 in the paper; 0: the image's own size."""
    base_side: Literal["long", "short"] = "long"
    """Which of an image's sides base_size is about: PyTorch-Encoding takes the longer one."""
    scale_min: float = 0.5
    """Smallest random scale, relative to the base size; an image's aspect ratio is kept."""
    scale_max: float = 2.0
    """Largest random scale."""
    flip: bool = True
    """Mirror left to right, one time in two."""
    rotate_degrees: float = 0.0
    """Rotate by a random angle of at most this many degrees either way (the paper: 10); 0 is off."""
    cat_max_ratio: float = 1.0
    """Look for a crop, 10 times, in which no class covers this part of the labelled pixels (mmseg: 0.75); 1 is off."""
    blur: float = 0.0
    """Probability of a Gaussian blur with a random sigma below 1 pixel (PyTorch-Encoding: 0.5); 0 is off."""
    photometric: bool = False
    """One time in two each: brightness +-32 of 255, contrast and saturation x 0.5 to 1.5, hue +-36 degrees."""

    def __post_init__(self) -> None:
        height, width = self.crop_size
        _require(height >= 32 and width >= 32, "crop_size", self.crop_size, "give a height and width of at least 32")
        _require(self.base_size >= 0, "base_size", self.base_size, "give a side in pixels, or 0")
        _require(self.base_side in ("long", "short"), "base_side", self.base_side, "give long or short")
        _require(self.scale_min > 0, "scale_min", self.scale_min, "give a number above 0")
        _require(self.scale_max >= self.scale_min, "scale_max", self.scale_max, f"give at least {self.scale_min}")
        _require(0 <= self.rotate_degrees <= 180, "rotate_degrees", self.rotate_degrees, "give 0 to 180")
        _require(0 < self.cat_max_ratio <= 1, "cat_max_ratio", self.cat_max_ratio, "give a number above 0, at most 1")
        _require(0 <= self.blur <= 1, "blur", self.blur, "give a probability from 0 to 1")


def _require(condition: bool, name: str, value: object, remedy: str) -> None:
    if not condition:
        raise InputError(f"{name}: {value} is out of range: {remedy}")


def decode_image(data: bytes, extension: str) -> Image:
    """A "jpg" or "png" file's bytes -> (H, W, 3) RGB, as stored: an orientation tag is left alone, as labels have none.

    Raises ValueError saying what is wrong with the bytes.
    """
    if extension in ("jpg", "jpeg"):
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return np.asarray(_decode(data, flags), dtype=np.uint8)


def decode_label(data: bytes) -> Label:
    """A label PNG's bytes -> (H, W). Raises ValueError when it can't be read or isn't one 8-bit channel."""
    label = _decode(data, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise ValueError(f"has shape {label.shape} of {label.dtype}, not one 8-bit channel")
    return np.asarray(label, dtype=np.uint8)


def _decode(data: bytes, flags: int) -> NDArray[Any]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if pixels is None:
        raise ValueError(f"can't be decoded as an image ({len(data)} bytes)")
    return pixels
