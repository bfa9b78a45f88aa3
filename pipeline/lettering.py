"""Words on pictures: lines of text, and what the colours of classes mean."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.transforms import Image

GAP, LINE = 8, 22
"""Pixels between things, and of a line of text."""
_SWATCH = 14
_SCALE = 0.45
_INK, _PAPER = (30, 30, 30), 250


def paper(height: int, width: int) -> NDArray[np.uint8]:
    """An empty sheet (height, width, 3)."""
    return np.full((height, width, 3), _PAPER, np.uint8)


def write(sheet: Image, text: str, left: int, base: int) -> None:
    """Write a line onto `sheet`, from `left` on, standing on row `base`."""
    cv2.putText(sheet, _ascii(text), (left, base), cv2.FONT_HERSHEY_SIMPLEX, _SCALE, _INK, 1, cv2.LINE_AA)


def heading(text: str, width: int) -> Image:
    """A line of text as a sheet (LINE, width, 3); cut off where it is too long."""
    sheet = paper(LINE, width)
    write(sheet, text, GAP, LINE - 7)
    return sheet


def legend(names: Sequence[tuple[str, Sequence[int]]], width: int) -> Image:
    """A swatch and a name for each class, in as many columns as fit."""
    longest = max((_text_width(name) for name, _ in names), default=0)
    cell = _SWATCH + 3 * GAP + longest
    columns = max(1, (width - GAP) // cell)
    sheet = paper(2 * GAP + -(-len(names) // columns) * LINE, max(width, cell))
    for place, (name, colour) in enumerate(names):
        left, top = GAP + place % columns * cell, GAP + place // columns * LINE
        sheet[top : top + _SWATCH, left : left + _SWATCH] = colour
        write(sheet, name, left + _SWATCH + GAP, top + _SWATCH - 2)
    return sheet[:, :width]


def _text_width(text: str) -> int:
    """How wide a line is, in pixels."""
    return int(cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, _SCALE, 1)[0][0])


def _ascii(text: str) -> str:
    # The only letters that OpenCV's own font has.
    return text.encode("ascii", "replace").decode()
