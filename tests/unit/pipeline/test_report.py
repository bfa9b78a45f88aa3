"""Pictures of predictions and the per-class table."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from pipeline.report import class_table, colorize, sample_picture

PALETTE = ((10, 20, 30), (200, 0, 0), (0, 0, 250))


def test_labels_get_their_colours_and_ignored_pixels_none() -> None:
    label = np.array([[0, 1], [2, 255]], np.uint8)
    expected = np.array([[(10, 20, 30), (200, 0, 0)], [(0, 0, 250), (0, 0, 0)]], np.uint8)
    assert np.array_equal(colorize(label, PALETTE), expected)


def test_a_picture_shows_image_truth_prediction_and_errors() -> None:
    image = np.full((2, 3, 3), 90, np.uint8)
    truth = np.array([[0, 0, 255], [1, 1, 1]], np.uint8)
    prediction = np.array([[0, 2, 0], [1, 1, 0]])
    picture = sample_picture(image, truth, prediction, PALETTE)
    assert (picture.shape, picture.dtype) == ((2, 4 * 3 + 3 * 4, 3), np.uint8)
    panels = [picture[:, start : start + 3] for start in (0, 7, 14, 21)]
    borders = [picture[:, start : start + 4] for start in (3, 10, 17)]
    assert np.array_equal(panels[0], image)
    assert np.array_equal(panels[1], colorize(truth, PALETTE))
    assert np.array_equal(panels[2], colorize(prediction, PALETTE))
    right, wrong, ignored = (30, 30, 30), (230, 40, 40), (110, 110, 110)
    assert panels[3].tolist() == [[list(right), list(wrong), list(ignored)], [list(right), list(right), list(wrong)]]
    assert all((border == 255).all() for border in borders)
    assert (image == 90).all()


def test_the_table_shows_percent_and_a_dash_for_an_absent_class() -> None:
    console = Console(file=io.StringIO(), width=60)
    with console.capture() as capture:
        console.print(class_table(["road", "sky", "car"], [0.98765, float("nan"), 0.0]))
    cells = [line.strip("│\n").split("│") for line in capture.get().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in cells] == [["road", "98.77"], ["sky", "–"], ["car", "0.00"]]
