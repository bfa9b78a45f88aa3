"""Sample -> sample: augmentation as a pure function of (image, label, config, random numbers).

The random numbers of a sample are keyed by (seed, epoch, sample), so that neither the number of workers nor the
threads that run this change a pixel. What to show is decided first and then done, in one resampling of no more of the
source image than the crop shows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.colours import blur, distort_colours
from pipeline.shards import IGNORE_INDEX
from pipeline.transforms import PADDING_RGB, Image, Label, TransformConfig

CROP_ATTEMPTS = 10
"""As in mmsegmentation's RandomCrop."""
_AUGMENT_STREAM = 1
_ROTATION, _MORE_CROPS, _COLOURS, _BLUR = range(4)
"""Streams of their own for what may be switched on; scale, crop and flip share the sample's."""


def augment_rng(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, sample, _AUGMENT_STREAM))))


def _stream(rng: np.random.Generator, purpose: int) -> np.random.Generator:
    """Random numbers of the same sample that don't depend on what else is drawn."""
    seeds = rng.bit_generator.seed_seq
    assert isinstance(seeds, np.random.SeedSequence)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds.entropy, spawn_key=(purpose,))))


def augment(
    image: Image,
    label: Label,
    config: TransformConfig,
    rng: np.random.Generator,
    out: tuple[Image, Label] | None = None,
) -> tuple[Image, Label]:
    """Random scale, crop, rotation, mirroring and colour: (H, W, 3), (H, W) -> (h, w, 3), (h, w) of `crop_size`.

    `rng` is that of `augment_rng`, unused. Image and label stay aligned to the pixel. What lies outside the image is
    the ImageNet mean, and ignored. `out`: arrays to fill in and return, else new ones.
    """
    view = choose_view(label, config, rng)
    shown, ids = show(image, label, view, config.crop_size, out)
    if config.photometric:
        shown[:] = distort_colours(shown, _stream(rng, _COLOURS))
    if config.blur:
        shown[:] = blur(shown, config.blur, _stream(rng, _BLUR))
    return shown, ids


class View(NamedTuple):
    """The part of the source image that a crop shows, and how."""

    top: int
    left: int
    height: int
    width: int
    scale: float
    """Pixels of the crop per pixel of the image."""
    angle_degrees: float
    """Counterclockwise, about the part's centre; the corners show what lies beside it."""
    flip: bool
    """Mirror left to right, last."""

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part, as a view of the array."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]

    def shown_size(self, crop_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width in the crop, which is padded below and to the right."""
        height, width = max(1, round(self.height * self.scale)), max(1, round(self.width * self.scale))
        return min(height, crop_size[0]), min(width, crop_size[1])


def choose_view(label: Label, config: TransformConfig, rng: np.random.Generator) -> View:
    """Draw a scale, a crop, a mirroring and an angle; the label says which crops are too much of one class."""
    scale = float(rng.uniform(config.scale_min, config.scale_max))
    if config.base_size:
        scale *= config.base_size / (max(label.shape) if config.base_side == "long" else min(label.shape))
    height, width = (
        min(size, max(1, round(crop / scale))) for size, crop in zip(label.shape, config.crop_size, strict=True)
    )
    view = View(*_choose_corner(label, height, width, rng), height, width, scale, 0.0, False)
    if config.cat_max_ratio < 1:
        view = _look_for_more_classes(label, view, config.cat_max_ratio, _stream(rng, _MORE_CROPS))
    flip = config.flip and rng.random() < 0.5
    limit = config.rotate_degrees
    angle = float(_stream(rng, _ROTATION).uniform(-limit, limit)) if limit else 0.0
    return view._replace(flip=flip, angle_degrees=angle)


def _choose_corner(label: Label, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(label.shape[0] - height + 1)), int(rng.integers(label.shape[1] - width + 1))


def _look_for_more_classes(label: Label, view: View, max_ratio: float, rng: np.random.Generator) -> View:
    """The view, or the first elsewhere in which no class has that share; the last one tried where none is found."""
    for _ in range(CROP_ATTEMPTS):
        if _largest_share(view.of(label)) < max_ratio:
            break
        top, left = _choose_corner(label, view.height, view.width, rng)
        view = view._replace(top=top, left=left)
    return view


def _largest_share(label: Label) -> float:
    """The part of the labelled pixels that the most frequent class covers; 1 where fewer than two classes are."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256])[:IGNORE_INDEX]
    return float(counts.max() / counts.sum()) if np.count_nonzero(counts) > 1 else 1.0


def show(
    image: Image, label: Label, view: View, crop_size: tuple[int, int], out: tuple[Image, Label] | None = None
) -> tuple[Image, Label]:
    """What the view shows, (h, w, 3) and (h, w) of `crop_size`, in `out` if given.

    The image is interpolated linearly where it grows and averaged over areas where it shrinks, the label is that of the
    nearest pixel.
    """
    out = out or _empty(crop_size)
    # Written where it is to be, not copied there, as long as it need not be mirrored.
    unmirrored = _empty(crop_size) if view.flip else out
    (_rotate if view.angle_degrees else _cut)(image, label, view, unmirrored)
    if view.flip:
        for pixels, mirrored in zip(unmirrored, out, strict=True):
            cv2.flip(pixels, 1, dst=mirrored)
    return out


def _empty(crop_size: tuple[int, int]) -> tuple[Image, Label]:
    return np.empty((*crop_size, 3), np.uint8), np.empty(crop_size, np.uint8)


def _cut(image: Image, label: Label, view: View, out: tuple[Image, Label]) -> None:
    """Resize the part alone into the top left of the crop, and pad the rest."""
    out_image, out_label = out
    height, width = view.shown_size(out_label.shape)
    shrinks = height < view.height or width < view.width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(view.of(image), (width, height), dst=out_image[:height, :width], interpolation=method)
    # INTER_NEAREST samples pixel corners, half a pixel off the image.
    method = cv2.INTER_NEAREST_EXACT
    cv2.resize(view.of(label), (width, height), dst=out_label[:height, :width], interpolation=method)
    for pixels, filling in ((out_image, PADDING_RGB), (out_label, IGNORE_INDEX)):
        pixels[height:] = filling
        pixels[:height, width:] = filling


def _rotate(image: Image, label: Label, view: View, out: tuple[Image, Label]) -> None:
    """Scale, rotate about the part's centre and crop."""
    out_image, out_label = out
    crop_size = out_label.shape
    to_source = _crop_to_source(view, crop_size)
    corners = np.array([[x, y, 1] for x in (-1, crop_size[1]) for y in (-1, crop_size[0])]) @ to_source.T
    (left, top), (right, bottom) = np.floor(corners.min(axis=0)).astype(int) - 1, np.ceil(corners.max(axis=0)) + 2
    left, top = max(0, left), max(0, top)
    image, label = (pixels[top : int(bottom), left : int(right)] for pixels in (image, label))
    to_source[:, 2] -= left, top
    to_image = to_source.copy()
    if view.scale < 1:  # as where nothing is rotated: interpolation alone would leave pixels out
        height, width = image.shape[:2]
        size = max(1, round(width * view.scale)), max(1, round(height * view.scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        shrunk = np.array([size[0] / width, size[1] / height])
        to_image *= shrunk[:, None]
        to_image[:, 2] += (shrunk - 1) / 2  # pixel centres are at whole numbers
    size, inverse = (crop_size[1], crop_size[0]), cv2.WARP_INVERSE_MAP
    cv2.warpAffine(image, to_image, size, out_image, cv2.INTER_LINEAR | inverse, borderValue=PADDING_RGB)
    cv2.warpAffine(label, to_source, size, out_label, cv2.INTER_NEAREST | inverse, borderValue=(IGNORE_INDEX,))


def _crop_to_source(view: View, crop_size: tuple[int, int]) -> NDArray[np.float64]:
    """(2, 3): where the pixel (x, y, 1) of the crop lies in the source image."""
    height, width = view.shown_size(crop_size)
    angle = math.radians(view.angle_degrees)
    a, b = math.cos(angle) / view.scale, math.sin(angle) / view.scale
    source_x, source_y = view.left + (view.width - 1) / 2, view.top + (view.height - 1) / 2
    x, y = (width - 1) / 2, (height - 1) / 2
    return np.array([[a, -b, source_x - a * x + b * y], [b, a, source_y - b * x - a * y]])
