"""Decoding, and the choices of augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.transforms import PADDING_RGB, TransformConfig, decode_image, decode_label
from tests.unit.pipeline.made_up_data import colours, patches, png


def _sample(height: int = 96, width: int = 120) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    label = patches((height, width), np.random.default_rng(0), size=24)
    return colours(label), label


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": (16, 480)}, "crop_size: (16, 480) is out of range: give a height and width of at least 32"),
        ({"base_size": -1}, "base_size: -1 is out of range: give a side in pixels, or 0"),
        ({"base_side": "wide"}, "base_side: wide is out of range: give long or short"),
        ({"scale_min": 0.0}, "scale_min: 0.0 is out of range: give a number above 0"),
        ({"scale_max": 0.4}, "scale_max: 0.4 is out of range: give at least 0.5"),
        ({"rotate_degrees": -1.0}, "rotate_degrees: -1.0 is out of range: give 0 to 180"),
        ({"cat_max_ratio": 0.0}, "cat_max_ratio: 0.0 is out of range: give a number above 0, at most 1"),
        ({"blur": 2.0}, "blur: 2.0 is out of range: give a probability from 0 to 1"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        TransformConfig(**changes)  # type: ignore[arg-type]
    assert str(caught.value) == message
