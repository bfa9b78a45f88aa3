"""The looks of ContextScenes: textured surfaces and small objects, as functions of random numbers alone.

Nothing here knows the scene, so that a look which stands for two classes is the same for both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.uint8]
TILE = 512


class Canvas(NamedTuple):
    """An image being painted, and its labels."""

    image: Floats
    """(H, W, 3) RGB, 0 to 255."""
    label: Mask
    """(H, W)."""


@functools.lru_cache(maxsize=8)
def _noise_tile(sigma: float) -> Floats:
    """(TILE, TILE) smooth noise of mean 0 and deviation 1; the same in every run."""
    white = np.random.Generator(np.random.Philox(round(sigma * 10))).standard_normal((TILE, TILE), np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) if sigma else white
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


def noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> Floats:
    """(H, W) noise, smooth over about `sigma` pixels."""
    top, left = (int(rng.integers(TILE - size + 1)) for size in shape)
    return _noise_tile(sigma)[top : top + shape[0], left : left + shape[1]]


def ramp(shape: tuple[int, int], angle: float) -> Floats:
    """(H, W) distance in pixels along a direction, 0 at the centre."""
    ys, xs = np.ogrid[: shape[0], : shape[1]]
    along = (xs - shape[1] / 2) * np.cos(angle) + (ys - shape[0] / 2) * np.sin(angle)
    return np.asarray(along, np.float32)


def _tint(rgb: tuple[int, int, int], brightness: Floats, rng: np.random.Generator) -> Floats:
    """(H, W) brightness around 1 -> (H, W, 3) in a colour near `rgb`."""
    colour = np.array(rgb, np.float32) + rng.uniform(-10, 10, 3).astype(np.float32)
    return brightness[..., None] * colour


def gold_stripes(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Wavy bands: a field of wheat, or sand blown into ripples."""
    phase = ramp(shape, rng.uniform(0, np.pi)) * rng.uniform(0.5, 0.9) + 1.2 * noise(shape, 6, rng)
    return _tint((198, 166, 92), 1 + 0.14 * np.sin(phase) + 0.05 * noise(shape, 0.7, rng), rng)


def blue_ripples(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Short waves."""
    phase = ramp(shape, rng.uniform(1.2, 1.9)) * rng.uniform(0.7, 1.1) + 2.2 * noise(shape, 4, rng)
    return _tint((62, 104, 150), 1 + 0.16 * np.sin(phase) + 0.08 * noise(shape, 8, rng), rng)


def green_mottle(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Grass in tufts."""
    return _tint((112, 148, 78), 1 + 0.10 * np.tanh(2 * noise(shape, 3, rng)) + 0.07 * noise(shape, 0.7, rng), rng)


def grey_slab(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Asphalt or stone, with a few joints."""
    joints = np.abs(np.sin(ramp(shape, rng.uniform(0, np.pi)) * 0.06)) < 0.04
    return _tint((92, 92, 98), 1 + 0.10 * noise(shape, 0.7, rng) - 0.3 * joints.astype(np.float32), rng)


def haze(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """The backdrop of every scene."""
    return _tint((186, 160, 156), 1 + 0.06 * noise(shape, 25, rng) + 0.02 * noise(shape, 0.7, rng), rng)


def foliage(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Dark leaves."""
    return _tint((52, 78, 50), 1 + 0.35 * np.tanh(2 * noise(shape, 2, rng)) + 0.1 * noise(shape, 8, rng), rng)


SURFACES: dict[str, Callable[[tuple[int, int], np.random.Generator], Floats]] = {
    "gold stripes": gold_stripes,
    "blue ripples": blue_ripples,
    "green mottle": green_mottle,
    "grey slab": grey_slab,
}


def stamp(canvas: Canvas, mask: Mask, texture: Floats | tuple[float, ...], label: int) -> None:
    """Paint where `mask` is not 0."""
    where = mask.astype(bool)
    canvas.image[where] = texture[where] if isinstance(texture, np.ndarray) else np.array(texture, np.float32)
    canvas.label[where] = label


def cast_shadow(canvas: Canvas, mask: Mask, rng: np.random.Generator) -> None:
    """Darken what lies beside an object, and leave its label."""
    dx, dy = (int(step) for step in rng.integers(2, 6, 2))
    shifted = np.zeros_like(mask)
    shifted[dy:, dx:] = mask[:-dy, :-dx]
    canvas.image[shifted.astype(bool)] *= 0.62


def box_mask(shape: tuple[int, int], centre: tuple[int, int], size: float, rng: np.random.Generator) -> Mask:
    """A slightly turned box."""
    box = (centre, (size * rng.uniform(1.3, 1.8), size), rng.uniform(-12, 12))
    return cv2.fillPoly(np.zeros(shape, np.uint8), [np.int32(cv2.boxPoints(box))], 1)  # type: ignore[list-item, return-value]


def box_texture(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Dull paint with darker panels."""
    panels = (np.sin(ramp(shape, 0) * 0.7) > 0.6) | (np.sin(ramp(shape, np.pi / 2) * 0.7) > 0.6)
    return _tint((134, 96, 84), 1 - 0.35 * panels.astype(np.float32) + 0.05 * noise(shape, 0.7, rng), rng)


def blob_mask(shape: tuple[int, int], centre: tuple[int, int], size: float, rng: np.random.Generator) -> Mask:
    """A lump with an uneven outline."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radii = (
        0.5 * size * (1 + 0.12 * np.sin(2 * angles + rng.uniform(0, 6)) + 0.08 * np.sin(5 * angles + rng.uniform(0, 6)))
    )
    outline = np.stack([centre[0] + 1.25 * radii * np.cos(angles), centre[1] + radii * np.sin(angles)], 1)
    return cv2.fillPoly(np.zeros(shape, np.uint8), [np.int32(outline)], 1)  # type: ignore[list-item, return-value]


def blob_texture(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Crust or stone."""
    return _tint((150, 140, 128), 1 + 0.14 * noise(shape, 2, rng) + 0.08 * noise(shape, 0.7, rng), rng)


def light(image: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The light of the whole picture: a gradient, a colour cast, softened edges and sensor noise."""
    shape = (image.shape[0], image.shape[1])
    slope = ramp(shape, rng.uniform(0, 2 * np.pi)) / max(shape)
    gain = rng.uniform(0.85, 1.1) * (1 + rng.uniform(0, 0.35) * slope)
    lit = cv2.GaussianBlur(image * gain[..., None] * rng.uniform(0.95, 1.05, 3).astype(np.float32), (0, 0), 0.6)
    grain = np.stack([noise(shape, 0, rng) for _ in range(3)], axis=-1) * rng.uniform(2, 5)
    return np.clip(np.rint(lit + grain), 0, 255).astype(np.uint8)
