"""Augmentation: aligned to the pixel, repeatable, and each change on its own."""

from __future__ import annotations

import colorsys
import math
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.augment import View, augment, augment_rng, choose_view, show
from pipeline.colours import blur, distort_colours
from pipeline.shards import IGNORE_INDEX
from pipeline.transforms import PADDING_RGB, TransformConfig
from tests.unit.pipeline.made_up_data import colours, patches

Pixels = NDArray[np.uint8]
OFF = TransformConfig(crop_size=(64, 80), scale_min=1.0, scale_max=1.0, flip=False)


def _sample(height: int = 96, width: int = 120) -> tuple[Pixels, Pixels]:
    label = patches((height, width), np.random.default_rng(0), size=24)
    return colours(label), label


def _smooth_sample(height: int, width: int, seed: int) -> tuple[Pixels, Pixels]:
    """A picture without sharp edges, and a label with them."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), np.empty(()), 0, 255, cv2.NORM_MINMAX)
    return np.asarray(image, np.uint8), patches((height, width), rng)


def _inside(label: Pixels, margin: int) -> NDArray[np.bool_]:
    """Pixels at least `margin` away from any other label."""
    window = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    framed = np.pad(label, margin, constant_values=254)
    same = np.asarray(cv2.erode(framed, window) == cv2.dilate(framed, window))
    return same[margin:-margin, margin:-margin]


@st.composite
def views(draw: st.DrawFn, scales: st.SearchStrategy[float], rotate: float) -> tuple[Pixels, Pixels, View]:
    """A sample, and what might be shown of it in a crop of 64 x 80."""
    image, label = _smooth_sample(draw(st.integers(40, 150)), draw(st.integers(40, 150)), draw(st.integers(0, 99)))
    seed, scale = draw(st.integers(0, 999)), draw(scales)
    config = replace(OFF, scale_min=scale, scale_max=scale, rotate_degrees=rotate, flip=True)
    return image, label, choose_view(label, config, augment_rng(0, 0, seed))


def _cut_by_pillow(image: Pixels, label: Pixels, view: View, crop: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Crop, resize, paste on a canvas and mirror, each by itself."""
    size = min(crop[1], round(view.width * view.scale)), min(crop[0], round(view.height * view.scale))
    shrinks = size[0] < view.width or size[1] < view.height
    results = []
    for pixels, filling, method in (
        (image, PADDING_RGB, Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR),
        (label, IGNORE_INDEX, Image.Resampling.NEAREST),
    ):
        picture = Image.fromarray(pixels)
        part = picture.crop((view.left, view.top, view.left + view.width, view.top + view.height))
        canvas = Image.new(picture.mode, crop[::-1], filling)
        canvas.paste(part.resize(size, method), (0, 0))
        turned = canvas.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else canvas
        results.append(np.asarray(turned))
    return results[0], results[1]


@settings(max_examples=60, deadline=None)
@given(views(st.floats(1.0, 2.0), rotate=0))
def test_cutting_is_what_pillow_does(sample: tuple[Pixels, Pixels, View]) -> None:
    image, label, view = sample
    out_image, out_label = show(image, label, view, (64, 80))
    plain_image, plain_label = _cut_by_pillow(image, label, view, (64, 80))
    assert np.array_equal(out_label, plain_label)
    assert np.abs(out_image.astype(int) - plain_image).max() <= 1


@settings(max_examples=60, deadline=None)
@given(views(st.floats(0.3, 1.0), rotate=0))
def test_shrinking_is_nearly_what_pillow_does(sample: tuple[Pixels, Pixels, View]) -> None:
    """The label to the pixel; averages over areas differ in how they weigh pixels on their edges."""
    image, label, view = sample
    out_image, out_label = show(image, label, view, (64, 80))
    plain_image, plain_label = _cut_by_pillow(image, label, view, (64, 80))
    assert np.array_equal(out_label, plain_label)
    assert np.abs(out_image.astype(int) - plain_image).mean() < 4


def _rotate_by_pillow(image: Pixels, label: Pixels, view: View, crop: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Move the part's centre to that of what is shown, turned and scaled, by steps of 3 x 3 matrices."""

    def move(x: float, y: float) -> NDArray[np.float64]:
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])

    angle = math.radians(view.angle_degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    shown = min(crop[1], round(view.width * view.scale)), min(crop[0], round(view.height * view.scale))
    shrink = np.diag([1 / view.scale, 1 / view.scale, 1])
    centre = view.left + view.width / 2, view.top + view.height / 2
    matrix = move(*centre) @ turn @ shrink @ move(-shown[0] / 2, -shown[1] / 2)
    results = []
    for pixels, filling, method in (
        (image, PADDING_RGB, Image.Resampling.BILINEAR),
        (label, IGNORE_INDEX, Image.Resampling.NEAREST),
    ):
        picture = Image.fromarray(pixels)
        turned = picture.transform(
            crop[::-1], Image.Transform.AFFINE, matrix[:2].ravel().tolist(), method, fillcolor=filling
        )
        results.append(np.asarray(turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else turned))
    return results[0], results[1]


@settings(max_examples=60, deadline=None)
@given(views(st.floats(0.4, 2.0), rotate=180))
def test_rotating_is_what_pillow_does(sample: tuple[Pixels, Pixels, View]) -> None:
    image, label, view = sample
    out_image, out_label = show(image, label, view, (64, 80))
    plain_image, plain_label = _rotate_by_pillow(image, label, view, (64, 80))
    assert np.mean(out_label != plain_label) < 0.002  # ties, and corners that a pixel's edge runs through
    framed = np.pad((plain_label != IGNORE_INDEX).astype(np.uint8), 1)
    within = cv2.erode(framed, np.ones((9, 9), np.uint8))[1:-1, 1:-1] > 0  # Pillow does not blend with the filling
    apart = np.abs(out_image.astype(int) - plain_image)[within]
    assert apart.size == 0 or (apart.mean() < 4 if view.scale < 1 else apart.max() <= 2)


def test_with_everything_off_a_crop_is_a_window() -> None:
    image, label = _sample()
    out_image, out_label = augment(image, label, OFF, augment_rng(0, 0, 0))
    windows = [
        (top, left)
        for top in range(96 - 64 + 1)
        for left in range(120 - 80 + 1)
        if np.array_equal(label[top : top + 64, left : left + 80], out_label)
    ]
    assert len(windows) == 1
    top, left = windows[0]
    assert np.array_equal(out_image, image[top : top + 64, left : left + 80])


def test_small_images_are_padded_with_the_mean_and_ignored() -> None:
    image, label = _sample(40, 50)
    out_image, out_label = augment(image, label, OFF, augment_rng(0, 0, 0))
    assert np.array_equal(out_image[:40, :50], image)
    assert np.array_equal(out_label[:40, :50], label)
    outside = np.ones((64, 80), bool)
    outside[:40, :50] = False
    assert (out_label[outside] == IGNORE_INDEX).all()
    assert (out_image[outside] == PADDING_RGB).all()


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(0.5, 2.0),
    rotate=st.sampled_from([0.0, 10.0, 180.0]),
    flip=st.booleans(),
    shape=st.tuples(st.integers(40, 150), st.integers(40, 150)),
    seed=st.integers(0, 1000),
)
def test_image_and_label_stay_aligned(
    scale: float, rotate: float, flip: bool, shape: tuple[int, int], seed: int
) -> None:
    """Where a label's neighbourhood is of one class, the image has that class's colour."""
    image, label = _sample(*shape)
    config = replace(OFF, scale_min=scale, scale_max=scale, rotate_degrees=rotate, flip=flip)
    out_image, out_label = augment(image, label, config, augment_rng(0, 0, seed))
    assert out_image.shape == (64, 80, 3)
    inside = _inside(out_label, 2) & (out_label != IGNORE_INDEX)
    assert rotate or inside.any()
    expected = colours(np.where(inside, out_label, 0).astype(np.uint8))
    assert np.abs(out_image.astype(int) - expected)[inside].max(initial=0) <= 1
    padded = _inside(out_label, 2) & (out_label == IGNORE_INDEX)
    assert np.abs(out_image.astype(int) - PADDING_RGB)[padded].max(initial=0) <= 1


@pytest.mark.parametrize("rotate", [0.0, 1e-9])
def test_edges_are_where_they_were(rotate: float) -> None:
    """A vertical edge at half the width is there after scaling: neither image nor label moves by half a pixel."""
    label = np.zeros((64, 64), np.uint8)
    label[:, 32:] = 1
    for scale in (0.5, 1.5, 2.0):
        size = round(64 * scale)
        config = replace(OFF, crop_size=(size, size), scale_min=scale, scale_max=scale, rotate_degrees=rotate)
        out_image, out_label = augment(colours(label), label, config, augment_rng(0, 0, 0))
        red = out_image[:, :, 0].sum() / 255
        assert (out_label == 1).sum() == size * size // 2
        assert abs(red - size * size / 2) < 0.02 * size * size


def test_flip_mirrors_half_of_the_samples() -> None:
    image, label = _sample(64, 80)
    results = [augment(image, label, replace(OFF, flip=True), augment_rng(0, 0, sample)) for sample in range(200)]
    mirrored = [np.array_equal(out_label, label[:, ::-1]) for _, out_label in results]
    assert all(
        np.array_equal(out_label, label[:, ::-1] if flipped else label) and
        np.array_equal(out_image, image[:, ::-1] if flipped else image)
        for (out_image, out_label), flipped in zip(results, mirrored, strict=True)
    )  # fmt: skip
    assert 70 < sum(mirrored) < 130


def test_a_crop_of_one_class_is_drawn_again() -> None:
    label = np.zeros((200, 200), np.uint8)
    label[:, 120:] = 1
    config = replace(OFF, cat_max_ratio=0.75)
    shares = []
    for sample in range(100):
        _, out = augment(colours(label), label, config, augment_rng(0, 0, sample))
        shares.append(np.bincount(out.ravel(), minlength=2).max() / out.size)
    plain = [augment(colours(label), label, OFF, augment_rng(0, 0, sample))[1] for sample in range(100)]
    assert np.mean(np.array(shares) < 0.75) > 0.9
    assert np.mean([np.bincount(out.ravel(), minlength=2).max() / out.size < 0.75 for out in plain]) < 0.6


def test_colours_change_and_labels_do_not() -> None:
    image, label = _sample(64, 80)
    image = np.clip(image, 40, 200)
    config = replace(OFF, photometric=True, blur=1.0)
    results = [augment(image, label, config, augment_rng(0, 0, sample)) for sample in range(50)]
    assert all(np.array_equal(out_label, label) for _, out_label in results)
    assert len({out_image.tobytes() for out_image, _ in results}) > 40
    brightness = np.array([out_image.mean() for out_image, _ in results])
    assert brightness.std() > 5


def test_random_numbers_belong_to_seed_epoch_and_sample() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    draws = [augment_rng(*key).random(4).tolist() for key in keys]
    assert draws == [augment_rng(*key).random(4).tolist() for key in keys]
    assert len({tuple(draw) for draw in draws}) == 4


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_change_switched_on_leaves_the_others_as_they_were(epoch: int, sample: int) -> None:
    _, label = _sample(150, 200)
    plain = replace(OFF, scale_min=0.5, scale_max=2.0, flip=True)
    view = choose_view(label, plain, augment_rng(0, epoch, sample))
    rotated = choose_view(label, replace(plain, rotate_degrees=10.0), augment_rng(0, epoch, sample))
    assert rotated.angle_degrees != 0
    assert rotated._replace(angle_degrees=0.0) == view
    elsewhere = choose_view(label, replace(plain, cat_max_ratio=0.2), augment_rng(0, epoch, sample))
    assert elsewhere._replace(top=view.top, left=view.left) == view
    image = np.full((*label.shape, 3), 100, np.uint8)
    blurred = augment(image, label, replace(plain, photometric=True, blur=1.0), augment_rng(0, epoch, sample))
    assert np.array_equal(blurred[1], augment(image, label, plain, augment_rng(0, epoch, sample))[1])


def test_the_choices_are_these() -> None:
    """Runs are resumed by position: choices that change with a version of numpy, or of ours, are another run's."""
    config = TransformConfig(crop_size=(480, 480), rotate_degrees=10.0)
    views = [choose_view(np.zeros((360, 480), np.uint8), config, augment_rng(7, 1, sample)) for sample in range(3)]
    assert [(view.top, view.left, view.flip) for view in views] == [(8, 60, True), (0, 0, True), (36, 36, True)]
    assert [round(view.scale, 6) for view in views] == [1.545188, 0.92714, 1.485421]


@pytest.mark.parametrize(("side", "size"), [("long", (36, 45)), ("short", (45, 56))])
def test_the_base_size_is_that_of_a_side(side: Literal["long", "short"], size: tuple[int, int]) -> None:
    image, label = _sample(96, 120)
    config = replace(OFF, base_size=45, base_side=side)
    _, out = augment(image, label, config, augment_rng(0, 0, 0))
    shown = out != IGNORE_INDEX
    assert (int(shown.any(axis=1).sum()), int(shown.any(axis=0).sum())) == size


def _slow_colours(image: Pixels, rng: np.random.Generator) -> NDArray[np.float64]:
    """The same draws, pixel by pixel."""
    brightness = rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0
    contrast, saturation = (rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0 for _ in range(2))
    hue = int(rng.integers(-18, 18)) * 2 if rng.random() < 0.5 else 0
    contrast_first = rng.random() < 0.5
    out = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        colour = np.clip(image[place] + brightness, 0, 255) / 255
        colour = np.clip(colour * contrast, 0, 1) if contrast_first else colour
        h, s, v = colorsys.rgb_to_hsv(*colour)
        colour = np.array(colorsys.hsv_to_rgb((h + hue / 360) % 1, min(1, s * saturation), v))
        out[place] = 255 * (colour if contrast_first else np.clip(colour * contrast, 0, 1))
    return out


@pytest.mark.parametrize("seed", range(20))
def test_colours_are_those_of_a_slow_reference(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    out = distort_colours(image, np.random.default_rng(seed))
    apart = np.abs(out - _slow_colours(image, np.random.default_rng(seed)))
    assert apart.mean() < 2
    assert apart.max() < 12  # a hue of 8 bits is rounded to two degrees, up to 4 levels before the contrast


def test_a_blur_comes_as_often_as_asked_for_and_keeps_the_mean() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    results = [blur(image, 0.3, np.random.default_rng(seed)) for seed in range(200)]
    changed = [result for result in results if not np.array_equal(result, image)]
    assert 30 < len(changed) < 90
    assert all(result.std() < image.std() and abs(result.mean() - image.mean()) < 2 for result in changed)
