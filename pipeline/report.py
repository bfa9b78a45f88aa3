"""Results for people: pictures of predictions, and the per-class table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

Palette = Sequence[Sequence[int]]
_BORDER = 4


def colorize(label: np.ndarray, palette: Palette) -> np.ndarray:
    """Class ids (H, W), 255 = ignore -> colours (H, W, 3) uint8, ignore black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8)
    return table[label.astype(np.uint8)]


def sample_picture(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, palette: Palette) -> np.ndarray:
    """Image, truth, prediction and errors (wrong pixels red, ignored grey) side by side, (H, 4 W + 12, 3) uint8."""
    ignored = truth == 255
    errors = (image // 3).astype(np.uint8)
    errors[(prediction != truth) & ~ignored] = (230, 40, 40)
    errors[ignored] = (110, 110, 110)
    border = np.full((image.shape[0], _BORDER, 3), 255, np.uint8)
    panels = [image, colorize(truth, palette), colorize(prediction, palette), errors]
    return np.concatenate([part for panel in panels for part in (panel, border)][:-1], axis=1)


def class_table(classes: Sequence[str], iou: Sequence[float]) -> Table:
    """A table of IoU per class, in percent; a class in neither truth nor prediction shows a dash."""
    table = Table()
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    for name, value in zip(classes, iou, strict=True):
        table.add_row(name, "–" if np.isnan(value) else f"{100 * value:.2f}")
    return table
