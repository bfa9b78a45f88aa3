"""ContextScenes: generated scenes in which the same look is another class in another scene.

A surface that covers nearly half of the picture, and the boxes and lumps on it, look the same whatever the scene: gold
stripes are sand on a beach and wheat on a farm. Which it is, only a landmark tells: a bright object at the far side of
the picture. So a window around a pixel is not enough, and the whole picture is.

A picture is a function of (seed, split, number). All that is random is drawn alike in all scenes, so two scenes that
share a surface differ in nothing but the landmarks' shapes and colours.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.datasets import scene_textures as textures
from pipeline.datasets.layout import Layout, LazySamples, Request, Source, SplitSource, refuse_options
from pipeline.datasets.scene_textures import Canvas, Mask
from pipeline.errors import InputError
from pipeline.shards import IGNORE_INDEX, Sample

NAME = "context-scenes"
TRAIN_SAMPLES = 480
VAL_SAMPLES = 96
HEIGHTS = (72, 113)
WIDTHS = (96, 145)
JPEG_QUALITY = 90
_COLOURS = {
    "backdrop": (186, 160, 156),
    "foliage": (52, 78, 50),
    "sand": (240, 220, 130),
    "wheat": (200, 140, 20),
    "sea": (0, 60, 160),
    "cloth": (230, 190, 210),
    "counter": (120, 100, 130),
    "road": (70, 70, 70),
    "lawn": (60, 200, 60),
    "pasture": (130, 190, 90),
    "car": (64, 0, 128),
    "stove": (160, 40, 40),
    "hut": (130, 80, 40),
    "rock": (140, 140, 140),
    "bread": (210, 150, 90),
    "parasol": (230, 30, 60),
    "windmill": (140, 230, 40),
    "sign": (250, 140, 20),
    "pot": (230, 40, 190),
}
CLASSES = tuple(_COLOURS)
PALETTE = tuple(_COLOURS.values())
_ID = {name: position for position, name in enumerate(CLASSES)}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What looks mean in one kind of scene."""

    surfaces: Mapping[str, str]
    """Look -> class, of the surfaces it may have; a picture shows one of them."""
    box: str
    lump: str
    landmark: str
    """The class that is found in this scene alone."""
    corners: int
    """Of the landmark's outline; 0 for a disc."""


SCENES = {
    "beach": Scene(
        surfaces={"blue ripples": "sea", "gold stripes": "sand"}, box="hut", lump="rock", landmark="parasol", corners=0
    ),
    "farm": Scene(
        surfaces={"gold stripes": "wheat", "green mottle": "pasture"},
        box="hut", lump="rock", landmark="windmill", corners=4,
    ),
    "street": Scene(
        surfaces={"green mottle": "lawn", "grey slab": "road"}, box="car", lump="rock", landmark="sign", corners=3
    ),
    "kitchen": Scene(
        surfaces={"grey slab": "counter", "blue ripples": "cloth"},
        box="stove", lump="bread", landmark="pot", corners=6,
    ),
}  # fmt: skip
AMBIGUOUS_CLASSES = tuple(
    sorted({name for scene in SCENES.values() for name in (*scene.surfaces.values(), scene.box, scene.lump)})
)
"""The classes whose looks they share with others: only the scene tells them apart."""


def scene_rng(seed: int, split: str, number: int) -> np.random.Generator:
    """The random numbers of one picture."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, zlib.crc32(split.encode()), number))))


def render(scene: Scene, look: str, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Paint a scene with one of its surfaces -> (H, W, 3) RGB and (H, W) ids."""
    shape = (int(rng.integers(*HEIGHTS)), int(rng.integers(*WIDTHS)))
    canvas = Canvas(textures.haze(shape, rng), np.full(shape, _ID["backdrop"], np.uint8))
    side = textures.ramp(shape, rng.uniform(0, 2 * np.pi)) + 6 * textures.noise(shape, 8, rng)
    cut, far = np.quantile(side[::4, ::4], [rng.uniform(0.5, 0.6), 0.2])
    other = textures.ramp(shape, rng.uniform(0, 2 * np.pi)) + 6 * textures.noise(shape, 8, rng)
    leaves = (other > np.median(other[::4, ::4])).astype(np.uint8)
    textures.stamp(canvas, leaves, textures.foliage(shape, rng), _ID["foliage"])
    surface = textures.SURFACES[look](shape, rng)
    textures.stamp(canvas, (side > cut).astype(np.uint8), surface, _ID[scene.surfaces[look]])
    _add_objects(canvas, scene, rng)
    _add_landmarks(canvas, scene, side < far, rng)
    return textures.light(canvas.image, rng), canvas.label


def _add_objects(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> None:
    """Boxes and lumps, anywhere."""
    height, width = shape = canvas.label.shape
    for _ in range(int(rng.integers(0, 3))):
        is_box, size = rng.random() < 0.5, float(rng.uniform(0.16, 0.28)) * min(shape)
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        mask = (textures.box_mask if is_box else textures.blob_mask)(shape, centre, size, rng)
        texture = (textures.box_texture if is_box else textures.blob_texture)(shape, rng)
        textures.cast_shadow(canvas, mask, rng)
        textures.stamp(canvas, mask, texture, _ID[scene.box if is_box else scene.lump])
        if rng.random() < 0.5:
            _ignore_border(canvas, mask)


def _add_landmarks(canvas: Canvas, scene: Scene, far_side: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Two or three of the scene's landmarks at the side away from the surface."""
    rows, columns = np.nonzero(far_side)
    for place in rng.integers(len(rows), size=int(rng.integers(2, 4))):
        height, width = canvas.label.shape
        radius = round(float(rng.uniform(0.15, 0.21)) * min(height, width))
        centre = (
            int(np.clip(columns[place], radius, width - radius)),
            int(np.clip(rows[place], radius, height - radius)),
        )
        mask = _landmark_mask(canvas.label.shape, centre, radius, scene.corners, rng.uniform(-0.3, 0.3))
        shine = float(rng.uniform(0.85, 1.1))
        textures.stamp(canvas, mask, tuple(shine * level for level in _COLOURS[scene.landmark]), _ID[scene.landmark])
        inner = _landmark_mask(canvas.label.shape, centre, radius // 3, scene.corners, 0.0)
        textures.stamp(canvas, inner, (245.0, 245.0, 245.0), _ID[scene.landmark])
        if rng.random() < 0.5:
            _ignore_border(canvas, mask)


def _landmark_mask(shape: tuple[int, ...], centre: tuple[int, int], radius: int, corners: int, turn: float) -> Mask:
    mask = np.zeros(shape, np.uint8)
    if corners == 0:
        return np.asarray(cv2.circle(mask, centre, radius, 1, cv2.FILLED), np.uint8)
    angles = turn - np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
    outline = np.stack([centre[0] + 1.2 * radius * np.cos(angles), centre[1] + 1.2 * radius * np.sin(angles)], 1)
    return np.asarray(cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1), np.uint8)


def _ignore_border(canvas: Canvas, mask: Mask) -> None:
    """The outline of an object belongs to neither side."""
    border = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    canvas.label[border.astype(bool)] = IGNORE_INDEX


def samples(split: str, count: int, seed: int) -> LazySamples:
    """`count` pictures, all scenes equally often."""
    return LazySamples(partial(paint, split, seed), range(count))


def paint(split: str, seed: int, number: int) -> Sample:
    """One picture of a split."""
    names = sorted(SCENES)
    name = names[number % len(names)]
    rng = scene_rng(seed, split, number)
    looks = sorted(SCENES[name].surfaces)
    image, label = render(SCENES[name], looks[int(rng.integers(len(looks)))], rng)
    return Sample(
        key=f"{split}{number:06d}",
        image=simplejpeg.encode_jpeg(image, JPEG_QUALITY, "RGB", "444"),
        extension="jpg",
        label=label,
        source=f"{NAME}/{name}/{seed}/{split}/{number}",
    )


def open_source(request: Request) -> Source:
    """Pictures numbered from 0 on in two splits. InputError for a folder, or a count or seed out of range."""
    refuse_options(request, NAME, ("source",), "it is generated, leave --source out")
    refuse_options(request, NAME, ("splits", "sbd"), "it is generated whole")
    counts = {
        "train": TRAIN_SAMPLES if request.train_samples is None else request.train_samples,
        "val": VAL_SAMPLES if request.val_samples is None else request.val_samples,
    }
    seed = request.seed or 0
    for name, value, least in (
        ("train-samples", counts["train"], 1),
        ("val-samples", counts["val"], 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise InputError(f"{name}: {value} is out of range: give at least {least}")
    return Source(
        arguments={"seed": seed, **counts},
        splits={split: SplitSource(samples=samples(split, count, seed)) for split, count in counts.items()},
    )


LAYOUT = Layout(name=NAME, version="1", classes=CLASSES, palette=PALETTE, open=open_source)
