"""Results for people: pictures of predictions, and the per-class table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from rich.markup import escape
from rich.table import Table

from pipeline.lettering import GAP, heading, legend, paper

Palette = Sequence[Sequence[int]]
_IGNORED = 255
_MIN_PANEL, _MAX_PANEL = 240, 1024
"""Pixels between which the width of a panel is brought: room for its heading, and no picture of many MB."""
_WRONG, _IGNORED_GREY = (230, 40, 40), (110, 110, 110)


def colorize(label: np.ndarray, palette: Palette) -> np.ndarray:
    """Class ids (H, W), 255 = ignore -> colours (H, W, 3) uint8, ignore black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    return table[label.astype(np.uint8)]


def sample_picture(
    key: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, classes: Sequence[str], palette: Palette
) -> np.ndarray:
    """What a model made of a sample, (H', W', 3) uint8: image and truth, below them prediction and errors.

    Each has its heading, and a legend names the classes there are. Errors are red, what is ignored is grey.
    """
    counted = truth != _IGNORED
    wrong = (prediction != truth) & counted
    errors = (image // 3).astype(np.uint8)
    errors[wrong] = _WRONG
    errors[~counted] = _IGNORED_GREY
    share = wrong.sum() / max(counted.sum(), 1)
    height, width = truth.shape
    tiles = [
        _tile(f"{key}  {width}x{height}", image, cv2.INTER_AREA),
        _tile("truth", colorize(truth, palette), cv2.INTER_NEAREST_EXACT),
        _tile("prediction", colorize(prediction, palette), cv2.INTER_NEAREST_EXACT),
        _tile(f"wrong: {100 * share:.1f} %", errors, cv2.INTER_NEAREST_EXACT),
    ]
    gap = paper(tiles[0].shape[0], GAP)
    rows = [np.hstack([left, gap, right]) for left, right in (tiles[:2], tiles[2:])]
    present = np.union1d(truth[counted], prediction[counted]).tolist()
    names = [(classes[place], palette[place]) for place in present]
    return np.vstack([*rows, legend(names, rows[0].shape[1])])


def _tile(title: str, panel: np.ndarray, shrink: int) -> np.ndarray:
    """A panel below its heading; brought to a size that can be read, by whole numbers where it grows."""
    height, width = panel.shape[:2]
    if width < _MIN_PANEL:
        factor = -(-_MIN_PANEL // width)
        panel = panel.repeat(factor, axis=0).repeat(factor, axis=1)
    elif width > _MAX_PANEL:
        panel = cv2.resize(panel, (_MAX_PANEL, max(1, round(height * _MAX_PANEL / width))), interpolation=shrink)
    return np.vstack([heading(title, panel.shape[1]), panel])


def class_table(
    classes: Sequence[str], iou: Sequence[float], others: Mapping[str, Sequence[float]] | None = None
) -> Table:
    """A table of IoU per class, in percent, beside other shares of 1 by their titles; NaN shows as a dash."""
    table = Table()
    table.add_column("class")
    columns = {"IoU %": iou, **(others or {})}
    for title in columns:
        table.add_column(title, justify="right")
    for name, *values in zip(classes, *columns.values(), strict=True):
        table.add_row(escape(name), *("–" if np.isnan(value) else f"{100 * value:.2f}" for value in values))
    return table
