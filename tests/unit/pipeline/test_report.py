"""Pictures of predictions and the per-class table."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from pipeline.lettering import GAP, LINE
from pipeline.report import class_table, colorize, sample_picture

CLASSES = ("road", "sky", "car")
PALETTE = ((10, 20, 30), (200, 0, 0), (0, 0, 250))


def test_labels_get_their_colours_and_ignored_pixels_none() -> None:
    label = np.array([[0, 1], [2, 255]], np.uint8)
    expected = np.array([[(10, 20, 30), (200, 0, 0)], [(0, 0, 250), (0, 0, 0)]], np.uint8)
    assert np.array_equal(colorize(label, PALETTE), expected)


def test_a_picture_shows_image_truth_prediction_and_errors() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 300, 3), np.uint8)
    truth = rng.choice(np.array([0, 1, 255], np.uint8), (30, 300))
    prediction = rng.integers(0, 2, (30, 300))
    picture = sample_picture("street", image, truth, prediction, CLASSES, PALETTE)
    assert (picture.shape[1], picture.dtype) == (300 + GAP + 300, np.uint8)
    rows = (LINE, LINE + 30 + LINE)
    panels = [picture[top : top + 30, left : left + 300] for top in rows for left in (0, 300 + GAP)]
    assert np.array_equal(panels[0], image)
    assert np.array_equal(panels[1], colorize(truth, PALETTE))
    assert np.array_equal(panels[2], colorize(prediction, PALETTE))
    is_red = (panels[3] == (230, 40, 40)).all(-1)
    assert np.array_equal(is_red, (truth != 255) & (truth != prediction))
    assert ((panels[3] == (110, 110, 110)).all(-1) >= (truth == 255)).all()
    key = picture[rows[1] + 30 :]
    assert (key == PALETTE[1]).all(-1).any(), "the legend has the classes there are"
    assert not (key == PALETTE[2]).all(-1).any(), "and no others"


@pytest.mark.parametrize(("width", "shown"), [(64, 256), (96, 288), (240, 240), (1024, 1024), (2048, 1024)])
def test_panels_are_of_a_size_that_can_be_read(width: int, shown: int) -> None:
    truth = np.zeros((width // 2, width), np.uint8)
    image = np.full((*truth.shape, 3), 90, np.uint8)
    picture = sample_picture("a", image, truth, truth, CLASSES, PALETTE)
    assert picture.shape[1] == 2 * shown + GAP
    assert (picture[LINE : LINE + shown // 2, :shown] == 90).all()


def test_a_picture_without_a_labelled_pixel_has_no_errors() -> None:
    nothing = np.full((300, 300), 255, np.uint8)
    picture = sample_picture("a", np.zeros((300, 300, 3), np.uint8), nothing, nothing * 0, CLASSES, PALETTE)
    assert (picture[-300:, -300:] != (230, 40, 40)).any(-1).all()


def test_the_table_shows_percent_and_a_dash_for_an_absent_class() -> None:
    console = Console(file=io.StringIO(), width=60)
    with console.capture() as capture:
        console.print(class_table(["road", "sky", "car"], [0.98765, float("nan"), 0.0]))
    cells = [line.strip("│\n").split("│") for line in capture.get().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in cells] == [["road", "98.77"], ["sky", "–"], ["car", "0.00"]]
