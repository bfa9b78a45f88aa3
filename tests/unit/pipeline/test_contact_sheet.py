"""The contact sheet: pixels of the overlay, a tile per sample, a legend of what is there."""

from __future__ import annotations

import numpy as np

from pipeline.contact_sheet import contact_sheet, overlay

PALETTE = ((200, 0, 0), (0, 100, 0), (0, 0, 50))
CLASSES = ("red", "green", "blue")


def test_the_overlay_mixes_colours_and_leaves_what_is_ignored() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    mixed = overlay(image, np.array([[0, 1, 255]], np.uint8), PALETTE)
    assert mixed.tolist() == [[[155, 45, 45], [45, 100, 45], [100, 100, 100]]]


def _has(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(-1).sum())


def test_each_sample_has_a_tile_and_each_class_in_them_a_swatch() -> None:
    label = np.zeros((60, 80), np.uint8)
    label[30:] = 2
    label[0, 0] = 255
    samples = [(f"käy{place}", np.full((60, 80, 3), 10 * place, np.uint8), label) for place in range(1, 5)]
    sheet = contact_sheet(samples, CLASSES, PALETTE, columns=3)
    assert sheet.dtype == np.uint8
    for place in range(1, 5):
        assert _has(sheet, (10 * place,) * 3) > 240 * 320 * 0.99
    assert [_has(sheet, colour) for colour in PALETTE] == [14 * 14, 0, 14 * 14]
    assert contact_sheet(samples[:1], CLASSES, PALETTE).shape[1] < sheet.shape[1] / 2


def test_any_shape_of_picture_and_number_of_classes_fits() -> None:
    many = tuple(f"a class with quite a long name {number}" for number in range(40))
    palette = tuple((number, 255 - number, number) for number in range(40))
    shapes = [(1, 1), (3, 900), (900, 3), (50, 50)]
    labels = [np.arange(shape[0] * shape[1]).reshape(shape).astype(np.uint8) % 40 for shape in shapes]
    samples = [("x", np.zeros((*shape, 3), np.uint8), label) for shape, label in zip(shapes, labels, strict=True)]
    sheet = contact_sheet(samples, many, palette, columns=2)
    assert sheet.shape[2] == 3
    assert len({tuple(colour) for colour in sheet.reshape(-1, 3)} & set(palette)) == 40
