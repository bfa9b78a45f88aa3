"""Augmentation of an image's colours and sharpness, which leaves the label alone."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.transforms import Image


def distort_colours(image: Image, rng: np.random.Generator) -> Image:
    """mmsegmentation's PhotoMetricDistortion, which is SSD's: (H, W, 3) RGB.

    Brightness (by -32 to 32), contrast, saturation (times 0.5 to 1.5 each) and hue (by -36 to 34 degrees), each one
    time in two, contrast before or after the last two.
    """
    brightness = rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-18, 18)) if rng.random() < 0.5 else 0
    contrast_first = rng.random() < 0.5
    levels = _to_bytes(np.arange(256) + brightness)
    if contrast_first:
        levels = _to_bytes(levels * contrast)
    image = np.asarray(cv2.LUT(image, levels), np.uint8)
    if saturation != 1 or hue:
        image = _turn_hues(image, saturation, hue)
    if not contrast_first and contrast != 1:
        image = np.asarray(cv2.LUT(image, _to_bytes(np.arange(256) * contrast)), np.uint8)
    return image


def _turn_hues(image: Image, saturation: float, hue: int) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # 8 bit: a hue is 0..179, two degrees each
    table = np.empty((1, 256, 3), np.uint8)
    levels = np.arange(256)
    table[..., 0], table[..., 1], table[..., 2] = (levels + hue) % 180, _to_bytes(levels * saturation), levels
    return np.asarray(cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB), np.uint8)


def blur(image: Image, probability: float, rng: np.random.Generator) -> Image:
    """PyTorch-Encoding's Gaussian blur, with a sigma uniform in [0, 1) pixels (at least 0.1): (H, W, 3)."""
    if rng.random() >= probability:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(float(rng.random()), 0.1)), np.uint8)


def _to_bytes(levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
