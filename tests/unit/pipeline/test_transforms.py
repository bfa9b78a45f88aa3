"""Decoding and augmentation."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.transforms import (
    IGNORE_INDEX,
    PADDING_RGB,
    TransformConfig,
    augment,
    augment_rng,
    decode_image,
    decode_label,
)
from tests.unit.pipeline.made_up_data import colours, patches, png

OFF = TransformConfig(crop_size=(64, 80), scale_min=1.0, scale_max=1.0, flip=False)


def _sample(height: int = 96, width: int = 120) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    label = patches((height, width), np.random.default_rng(0), size=24)
    return colours(label), label


def _inside(label: NDArray[np.uint8], margin: int) -> NDArray[np.bool_]:
    """Pixels at least `margin` away from any other label."""
    window = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    framed = np.pad(label, margin, constant_values=254)
    same = np.asarray(cv2.erode(framed, window) == cv2.dilate(framed, window))
    return same[margin:-margin, margin:-margin]


def test_padding_is_the_imagenet_mean() -> None:
    assert tuple(round(255 * mean) for mean in (0.485, 0.456, 0.406)) == PADDING_RGB


def test_images_are_decoded_to_rgb() -> None:
    image, _ = _sample()
    assert np.array_equal(decode_image(png(image), "png"), image)
    decoded = decode_image(simplejpeg.encode_jpeg(image, 98, "RGB", "444"), "jpg")
    assert np.abs(decoded.astype(int) - image).mean() < 3
    grey = np.full((40, 50, 1), 77, np.uint8)
    assert decode_image(simplejpeg.encode_jpeg(grey, 95, "GRAY", "Gray"), "jpg").shape == (40, 50, 3)


def test_labels_are_decoded_as_they_are() -> None:
    _, label = _sample()
    assert np.array_equal(decode_label(png(label)), label)


@pytest.mark.parametrize("data", [b"", b"nothing"])
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    for extension in ("jpg", "png"):
        with pytest.raises(ValueError):  # noqa: PT011 - libjpeg's own words
            decode_image(data, extension)
    with pytest.raises(ValueError, match="can't be decoded as an image"):
        decode_label(data)


def test_a_truncated_jpeg_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    whole = simplejpeg.encode_jpeg(noise, 90)
    with pytest.raises(ValueError, match="Premature end"):
        decode_image(whole[: len(whole) // 2], "jpg")


def test_coloured_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has shape \(96, 120, 3\) of uint8, not one 8-bit channel"):
        decode_label(png(_sample()[0]))


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": (16, 480)}, "crop_size: (16, 480) is out of range: give a height and width of at least 32"),
        ({"scale_min": 0.0}, "scale_min: 0.0 is out of range: give a number above 0"),
        ({"scale_max": 0.4}, "scale_max: 0.4 is out of range: give at least 0.5"),
        ({"rotate_degrees": -1.0}, "rotate_degrees: -1.0 is out of range: give 0 to 180"),
        ({"cat_max_ratio": 0.0}, "cat_max_ratio: 0.0 is out of range: give a number above 0, at most 1"),
        ({"blur": 2.0}, "blur: 2.0 is out of range: give a probability from 0 to 1"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as caught:
        TransformConfig(**changes)  # type: ignore[arg-type]
    assert str(caught.value) == message
