"""Sample -> sample: decoding, and augmentation as a pure function of (image, label, config, random numbers).

The random numbers of a sample are keyed by (seed, epoch, sample), so that neither the number of workers nor the
threads that run this change a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.shards import IGNORE_INDEX

Image = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Label = NDArray[np.uint8]
"""(H, W) train ids, 255 = ignore."""

PADDING_RGB = (124, 116, 104)
"""The ImageNet mean, 255 * (0.485, 0.456, 0.406): what pads an image is zero once normalised."""
CROP_ATTEMPTS = 10
"""As in mmsegmentation's RandomCrop."""
_AUGMENT_STREAM = 1


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """Augmentation of a training sample."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True, "extra": "forbid"}

    crop_size: tuple[int, int] = (480, 480)
    """Height and width, in pixels, of every training image."""
    scale_min: float = 0.5
    """Smallest random scale, relative to the image's own size; its aspect ratio is kept."""
    scale_max: float = 2.0
    """Largest random scale."""
    flip: bool = True
    """Mirror left to right, one time in two."""
    rotate_degrees: float = 0.0
    """Rotate by a random angle of at most this many degrees either way; 0 is off."""
    cat_max_ratio: float = 1.0
    """Look for a crop in which no class covers more than this part of the labelled pixels; 1 is off."""
    blur: float = 0.0
    """Probability of a Gaussian blur with a random sigma below 1 pixel; 0 is off."""
    photometric: bool = False
    """Random brightness, contrast, saturation and hue."""

    def __post_init__(self) -> None:
        height, width = self.crop_size
        _require(height >= 32 and width >= 32, "crop_size", self.crop_size, "give a height and width of at least 32")
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


def augment_rng(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, sample, _AUGMENT_STREAM))))


def augment(image: Image, label: Label, config: TransformConfig, rng: np.random.Generator) -> tuple[Image, Label]:
    """Random scale, crop, rotation, mirroring and colour: (H, W, 3), (H, W) -> (h, w, 3), (h, w) of `crop_size`.

    Image and label stay aligned to the pixel. What lies outside the image is the ImageNet mean, and ignored.
    """
    scale = float(rng.uniform(config.scale_min, config.scale_max))
    region = _choose_region(label, config, scale, rng)
    angle = float(rng.uniform(-config.rotate_degrees, config.rotate_degrees)) if config.rotate_degrees else 0.0
    cut = _cut(image, label, region, config.crop_size) if angle == 0 else _rotate(image, label, region, config, angle)
    image, label = cut
    if config.flip and rng.random() < 0.5:
        image, label = np.asarray(cv2.flip(image, 1), np.uint8), np.asarray(cv2.flip(label, 1), np.uint8)
    if config.photometric:
        image = _distort_colours(image, rng)
    if config.blur and rng.random() < config.blur:
        sigma = max(float(rng.random()), 0.1)  # as PyTorch-Encoding: a radius uniform in [0, 1)
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    return image, label


class _Region(NamedTuple):
    """The part of the source image that a crop shows, and the scale it is shown at."""

    top: int
    left: int
    height: int
    width: int
    scale: float

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]

    def shown_size(self, crop_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width in the crop."""
        height, width = max(1, round(self.height * self.scale)), max(1, round(self.width * self.scale))
        return min(height, crop_size[0]), min(width, crop_size[1])


def _choose_region(label: Label, config: TransformConfig, scale: float, rng: np.random.Generator) -> _Region:
    height, width = (
        min(size, max(1, round(crop / scale))) for size, crop in zip(label.shape, config.crop_size, strict=True)
    )
    for _ in range(CROP_ATTEMPTS):
        top = int(rng.integers(label.shape[0] - height + 1))
        left = int(rng.integers(label.shape[1] - width + 1))
        region = _Region(top, left, height, width, scale)
        if config.cat_max_ratio >= 1 or _largest_share(region.of(label)) < config.cat_max_ratio:
            break
    return region


def _largest_share(label: Label) -> float:
    """The part of the labelled pixels that the most frequent class covers; 1 where fewer than two classes are."""
    counts = np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    return float(counts.max() / counts.sum()) if np.count_nonzero(counts) > 1 else 1.0


def _cut(image: Image, label: Label, region: _Region, crop_size: tuple[int, int]) -> tuple[Image, Label]:
    """Resize the region alone into the top left of the crop, and pad the rest."""
    height, width = region.shown_size(crop_size)
    shrinks = height < region.height or width < region.width
    pixels = cv2.resize(
        region.of(image), (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    # INTER_NEAREST samples pixel corners, half a pixel off the image.
    ids = cv2.resize(region.of(label), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    out_image = np.empty((*crop_size, 3), np.uint8)
    out_label = np.full(crop_size, IGNORE_INDEX, np.uint8)
    out_image[:height, :width] = pixels
    out_image[height:] = PADDING_RGB
    out_image[:height, width:] = PADDING_RGB
    out_label[:height, :width] = ids
    return out_image, out_label


def _rotate(
    image: Image, label: Label, region: _Region, config: TransformConfig, angle_degrees: float
) -> tuple[Image, Label]:
    """Scale, rotate about the region's centre and crop in one resampling."""
    height, width = region.shown_size(config.crop_size)
    angle = math.radians(angle_degrees)
    a, b = region.scale * math.cos(angle), region.scale * math.sin(angle)
    source_x, source_y = region.left + (region.width - 1) / 2, region.top + (region.height - 1) / 2
    target_x, target_y = (width - 1) / 2, (height - 1) / 2
    matrix = np.array(  # source (x, y, 1) -> crop (x, y)
        [
            [a, b, target_x - a * source_x - b * source_y],
            [-b, a, target_y + b * source_x - a * source_y],
        ]
    )
    size = (config.crop_size[1], config.crop_size[0])
    out_image = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=PADDING_RGB)
    out_label = cv2.warpAffine(label, matrix, size, flags=cv2.INTER_NEAREST, borderValue=(IGNORE_INDEX,))
    return np.asarray(out_image, np.uint8), np.asarray(out_label, np.uint8)


def _distort_colours(image: Image, rng: np.random.Generator) -> Image:
    """mmsegmentation's PhotoMetricDistortion: each change one time in two, contrast before or after the rest."""
    brightness = rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-18, 18)) if rng.random() < 0.5 else 0
    contrast_first = rng.random() < 0.5
    levels = np.arange(256, dtype=np.float64) + brightness
    if contrast_first:
        levels *= contrast
    image = np.asarray(cv2.LUT(image, _to_bytes(levels)), np.uint8)
    if saturation != 1 or hue:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # 8 bit: hue is 0..179
        hues, levels = np.arange(256), np.arange(256, dtype=np.float64)
        table = np.stack([(hues + hue) % 180, _to_bytes(levels * saturation), levels], axis=1).astype(np.uint8)
        image = np.asarray(cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB), np.uint8)
    if not contrast_first and contrast != 1:
        image = np.asarray(cv2.LUT(image, _to_bytes(np.arange(256, dtype=np.float64) * contrast)), np.uint8)
    return image


def _to_bytes(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
